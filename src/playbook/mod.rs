//! From what the user wrote to one host's tasks: parse with spans, validate everything in one go, resolve vars,
//! profiles and key files. Must not look at the host.
