//! What the store in RetrySpool's own directory promises beyond the contract.

mod doubtful;
mod life;
mod power;
pub mod support;
