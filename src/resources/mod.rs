//! The registry: one file a resource, one line here.

use crate::resource::Kind;

/// All resources, in the order in which their changes run within a stage.
pub const REGISTRY: &[Kind] = &[];
