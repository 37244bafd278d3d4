//! Where a session runs: on this host, or in a throw-away copy of one.
