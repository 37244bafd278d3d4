//! `keyward explain [RESOURCE]`: the playbook language, from the resources' own types.

use crate::error::Result;
use crate::playbook;
use crate::resources::REGISTRY;

use super::args::{ExplainArgs, Format};
use super::{Ending, print_file};

/// Explains all resources, or one.
pub fn run(args: &ExplainArgs, format: Format) -> Result<Ending> {
    let text = playbook::explain(REGISTRY, args.resource.as_deref())?;
    print_file("explanation", &text, format)
}
