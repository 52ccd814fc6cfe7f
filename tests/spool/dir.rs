//! The same tests over the store in RetrySpool's own directory, but for those of what only a
//! database can hold or do.

#[path = "aside.rs"]
mod aside;
#[path = "attributes.rs"]
mod attributes;
#[path = "closes.rs"]
mod closes;
#[path = "common.rs"]
mod common;
#[path = "errors.rs"]
mod errors;
#[path = "faults.rs"]
mod faults;
#[path = "model.rs"]
mod model;
#[path = "names.rs"]
mod names;
#[path = "renames.rs"]
mod renames;
#[path = "scratch.rs"]
mod scratch;
#[path = "steps.rs"]
mod steps;
#[path = "writes.rs"]
mod writes;

/// Which store the tests below this module run on.
const DIRECTORY: bool = true;
