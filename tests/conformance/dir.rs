//! What the store in RetrySpool's own directory promises beyond the contract.

mod doubtful;
mod life;
pub mod support;
