//! Assess, order, apply, prove, decide, roll back for one host. Knows no concrete resource.
