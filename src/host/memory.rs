//! The in-memory twin of a host, for law tests.
