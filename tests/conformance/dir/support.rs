//! Spools of directories, and files as RetrySpool writes them.

use std::path::Path;

use retryspoolfs::backend::dir::DirFactory;
use retryspoolfs::{Factory, PlainName};

use crate::contract::{Spool, id};

/// An empty spool.
pub fn spool() -> Spool {
    spool_of(|path| DirFactory::create_if_missing(path))
}

/// One that is told of nothing, as on a network filesystem. What this process changes it knows
/// all the same.
pub fn spool_without_inotify() -> Spool {
    spool_of(|path| DirFactory::create_if_missing(path).notified(false))
}

fn spool_of(factory: fn(&Path) -> DirFactory) -> Spool {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("meta");
    let spool = Spool::new(directory, move || factory(&path).create().unwrap());
    spool.holding(|name| PlainName::of_id(&id(name)).is_ok())
}
