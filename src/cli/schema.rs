//! `keyward schema`: the JSON Schema of playbooks, for editors. Made from the resources' own types.

use crate::error::{Failure, Result};
use crate::playbook;
use crate::resources::REGISTRY;

use super::args::Format;
use super::{Ending, print_file};

/// Prints the schema.
pub fn run(format: Format) -> Result<Ending> {
    let text = serde_json::to_string_pretty(&playbook::schema(REGISTRY))
        .map_err(|error| Failure::failed("schema", "cannot be written").why(error))?;
    print_file("schema", &format!("{text}\n"), format)
}
