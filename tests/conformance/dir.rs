//! What the store in RetrySpool's own directory promises beyond the contract.

pub mod support;
