//! A store that several mounts may share, and whose steps a test can make fail, or look into
//! while they are under way.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use retryspoolfs::backend::{Ages, ChangeFeed, Result, Space, StateInfo};
use retryspoolfs::{
    Backend, Context, Error, MessageId, MessageListOptions, MessageListResult, MessageMetadata,
    QueueState, Revision, StateCounterBackend, Stored, Timestamp,
};

type Hook = Box<dyn Fn() + Send + Sync>;

/// What a test holds of the store.
#[derive(Default)]
pub struct Steps {
    failures: Mutex<VecDeque<(&'static str, Error)>>,
    meanwhile: Mutex<Option<Arc<Hook>>>,
    afterwards: Mutex<Option<(&'static str, Hook)>>,
}

impl Steps {
    /// Makes the next call of that name fail.
    pub fn fail(&self, call: &'static str, error: Error) {
        self.failures.lock().unwrap().push_back((call, error));
    }

    /// Runs something in the middle of each call, by the calling thread.
    pub fn meanwhile(&self, hook: Hook) {
        *self.meanwhile.lock().unwrap() = Some(Arc::new(hook));
    }

    /// Runs something once, when the store has answered the next call of that name and nobody has
    /// the answer yet, by the calling thread.
    #[allow(dead_code, reason = "some tests of one store use it alone")]
    pub fn afterwards(&self, call: &'static str, hook: Hook) {
        *self.afterwards.lock().unwrap() = Some((call, hook));
    }

    fn answered(&self, call: &str) {
        let hook = self
            .afterwards
            .lock()
            .unwrap()
            .take_if(|(name, _)| *name == call);
        if let Some((_, hook)) = hook {
            hook();
        }
    }

    fn step(&self, call: &str) -> Result<()> {
        let hook = self.meanwhile.lock().unwrap().clone();
        if let Some(hook) = hook {
            hook();
        }
        let mut failures = self.failures.lock().unwrap();
        match failures.iter().position(|(name, _)| *name == call) {
            Some(at) => Err(failures.remove(at).unwrap().1),
            None => Ok(()),
        }
    }
}

/// The store itself.
pub struct Stepped {
    pub inner: Arc<dyn Backend>,
    pub steps: Arc<Steps>,
}

macro_rules! steps {
    ($($call:ident($($name:ident: $kind:ty),*) -> $gives:ty;)*) => {
        $(fn $call(&self, $($name: $kind),*) -> Result<$gives> {
            self.steps.step(stringify!($call))?;
            let answer = self.inner.$call($($name),*);
            self.steps.answered(stringify!($call));
            answer
        })*
    };
}

impl Backend for Stepped {
    steps! {
        store_meta(ctx: &Context, id: &MessageId, metadata: &MessageMetadata) -> ();
        update_meta(ctx: &Context, id: &MessageId, metadata: &MessageMetadata) -> ();
        delete_meta(ctx: &Context, id: &MessageId) -> ();
        list_messages(ctx: &Context, state: QueueState, options: &MessageListOptions) -> MessageListResult;
        close() -> ();
        get(ctx: &Context, id: &MessageId) -> Option<Stored>;
        locate(ctx: &Context, id: &MessageId) -> Option<QueueState>;
        insert(ctx: &Context, metadata: &MessageMetadata) -> Revision;
        replace(ctx: &Context, from: QueueState, seen: Revision, metadata: &MessageMetadata) -> Revision;
        relocate(ctx: &Context, id: &MessageId, from: QueueState, to: QueueState) -> Revision;
        remove(ctx: &Context, id: &MessageId, from: QueueState, seen: Option<Revision>) -> Revision;
        scan(ctx: &Context, state: QueueState, after: Option<&MessageId>, limit: usize) -> Vec<MessageId>;
        scan_stored(ctx: &Context, state: QueueState, after: Option<&MessageId>, limit: usize) -> Vec<(MessageId, Result<Stored>)>;
        state_info(ctx: &Context, state: QueueState) -> StateInfo;
        ages(ctx: &Context, state: QueueState) -> Ages;
        was_revision(ctx: &Context, id: &MessageId, updated: Timestamp) -> bool;
        sync(ctx: &Context) -> ();
        space() -> Space;
    }

    fn change_feed(&self) -> Option<&dyn ChangeFeed> {
        self.inner.change_feed()
    }

    fn state_counter(&self) -> Option<&dyn StateCounterBackend> {
        self.inner.state_counter()
    }
}
