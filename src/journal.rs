//! The write-ahead record of a run: every undo is durable before its step runs. Replayed by rollback, never by apply.
