//! Evidence from real logins and connections.
