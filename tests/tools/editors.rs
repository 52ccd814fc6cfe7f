//! Editors, in a terminal: an edit that is saved twice, a new file, an edit that a worker
//! overtook, and a document that is refused and then mended.

use std::fs;
use std::path::Path;

use retryspoolfs::QueueState::Hold;
use retryspoolfs::{MessageMetadata, Timestamp, document};

use crate::row::{WORKER, worker_was_here};
use crate::support::{ctx, message};
use crate::terminal::Terminal;
use crate::trees::Trees;

/// One thing that a person does at the keyboard, or looks for on the screen.
#[derive(Clone, Copy)]
enum Step {
    Press(&'static [&'static str]),
    /// `$OLD`, `$NEW` and `$DOC` are what to type.
    Type(&'static str),
    /// Waits for a text. `$T` is the file's path.
    See(&'static str),
    /// Waits until a text is gone.
    Gone(&'static str),
}

use Step::{Gone, Press, See, Type};

/// An editor, and how it is used.
struct Editor {
    command: &'static str,
    /// What it shows of a new file, and of one that it has read.
    new: &'static str,
    read: &'static str,
    /// Types a document into a new file, if it can make one.
    write: Option<&'static [Step]>,
    /// Replaces `$OLD` by `$NEW` everywhere.
    replace: &'static [Step],
    save: &'static [Step],
    /// What it says when it has saved.
    saved: &'static str,
    /// What it asks where the file was changed by somebody else, and what says yes.
    changed: (&'static str, &'static [&'static str]),
    /// What it says of a refusal.
    refused: &'static [&'static str],
    /// Goes back to the text after a refusal.
    dismiss: &'static [Step],
    /// Leaves it.
    quit: &'static [Step],
    /// Leaves it, and throws away what is not saved.
    abandon: &'static [Step],
    /// The backup that it was told to keep; `*` is the file's name.
    keeps: Option<&'static str>,
    /// Where it leaves a text that nobody saved.
    rescues: Option<&'static str>,
}

const VIM: Editor = Editor {
    command: "vim --clean -c 'set backupskip=' $T",
    new: "[New]",
    read: "\"ID\": ",
    write: Some(&[Press(&["i"]), Type("$DOC"), Press(&["Escape"])]),
    replace: &[Type(":%s/$OLD/$NEW/"), Press(&["Enter"]), See("$NEW")],
    save: &[Type(":w"), Press(&["Enter"])],
    saved: " written",
    changed: ("Do you really want to write to it (y/n)?", &["y"]),
    refused: &["E667: Fsync failed", "E512: Close failed"],
    quit: &[Type(":q"), Press(&["Enter"])],
    dismiss: &[Press(&["Enter"])],
    abandon: &[Type(":q!"), Press(&["Enter"])],
    keeps: None,
    rescues: None,
};

const NANO: Editor = Editor {
    command: "nano --ignorercfiles $T",
    new: "New File",
    read: "\"ID\": ",
    write: Some(&[Type("$DOC")]),
    replace: &[
        Press(&["C-\\"]),
        See("Search (to replace)"),
        Type("$OLD"),
        Press(&["Enter"]),
        See("Replace with:"),
        Type("$NEW"),
        Press(&["Enter"]),
        See("Replace this instance?"),
        Press(&["a"]),
        See("Replaced 1 occurrence"),
    ],
    save: &[Press(&["C-s"])],
    saved: "[ Wrote ",
    changed: ("File on disk has changed; continue saving?", &["y"]),
    refused: &["Error writing "],
    quit: &[Press(&["C-x"])],
    dismiss: &[],
    abandon: &[Press(&["C-x"]), See("Save modified buffer?"), Press(&["n"])],
    keeps: None,
    rescues: None,
};

const EMACS: Editor = Editor {
    command: "emacs -nw -Q --eval '(setq backup-enable-predicate (lambda (_) t))' $T",
    new: "(New file)",
    read: "\"ID\": ",
    write: Some(&[Type("$DOC")]),
    replace: &[
        Press(&["M-<", "M-x"]),
        See("M-x"),
        Type("replace-string"),
        Press(&["Enter"]),
        See("Replace string"),
        Type("$OLD"),
        Press(&["Enter"]),
        See(" with: "),
        Type("$NEW"),
        Press(&["Enter"]),
        See("Replaced 1 occurrence"),
    ],
    save: &[Press(&["C-x", "C-s"])],
    saved: "Wrote ",
    changed: ("Save anyway?", &["y", "e", "s", "Enter"]),
    refused: &["Stale file handle", "Bad message"],
    quit: &[Press(&["C-x", "C-c"])],
    dismiss: &[],
    abandon: &[
        Press(&["C-x", "C-c"]),
        See("Save file"),
        Press(&["n"]),
        See("exit anyway?"),
        Press(&["y", "e", "s", "Enter"]),
    ],
    keeps: Some("*.json~"),
    rescues: Some("#*.json#"),
};

const MCEDIT: Editor = Editor {
    command: "mcedit $T",
    new: "hold/new.json",
    read: "\"ID\": ",
    write: None,
    replace: &[
        Press(&["C-Home", "F4"]),
        See("Enter search string"),
        Type("$OLD"),
        Press(&["Down"]),
        Type("$NEW"),
        Press(&["Enter"]),
        See("Confirm replace"),
        Press(&["Enter"]),
        See("[-M--]"),
    ],
    save: &[Press(&["F2"]), See("Confirm save file"), Press(&["Enter"])],
    saved: "[----]",
    changed: ("The file has been modified in the meantime", &["Enter"]),
    refused: &["Save As"],
    quit: &[Press(&["F10"])],
    dismiss: &[Press(&["F10"]), Gone("Save As")],
    abandon: &[Press(&["F10"]), See("Close file"), Press(&["n"])],
    keeps: None,
    rescues: None,
};

fn fill(text: &str, values: &[(&str, &str)]) -> String {
    values.iter().fold(text.to_owned(), |text, (name, value)| {
        text.replace(name, value)
    })
}

/// A person at an editor that has a file open.
struct Session<'a> {
    editor: &'a Editor,
    terminal: Terminal,
    id: &'a str,
}

impl Session<'_> {
    fn take(&self, steps: &[Step], old: &str, new: &str) {
        let (t, doc) = (
            format!("hold/{}.json", self.id),
            format!("{{\"ID\": \"{}\", \"Priority\": 17}}", self.id),
        );
        let values = [("$OLD", old), ("$NEW", new), ("$DOC", &doc), ("$T", &t)];
        for step in steps {
            match step {
                Press(keys) => self.terminal.press(keys),
                Type(text) => self.terminal.type_in(&fill(text, &values)),
                See(text) => {
                    self.terminal.shows(&[&fill(text, &values)]);
                }
                Gone(text) => self.terminal.shows_no_more(text),
            }
        }
    }

    fn replace(&self, old: &str, new: &str) {
        self.take(self.editor.replace, old, new);
    }

    /// Saves, whatever somebody else did, and says whether that was accepted.
    #[track_caller]
    fn save(&self) -> bool {
        self.take(self.editor.save, "", "");
        let (asks, yes) = self.editor.changed;
        let answers = [&[self.editor.saved, asks], self.editor.refused].concat();
        let mut said = self.terminal.shows(&answers);
        if said == asks {
            self.terminal.press(yes);
            let answers = [&[self.editor.saved], self.editor.refused].concat();
            said = self.terminal.shows(&answers);
        }
        said == self.editor.saved
    }

    #[track_caller]
    fn quit(self) {
        self.take(self.editor.quit, "", "");
        self.terminal.shows(&["ended with 0"]);
    }

    /// Leaves the editor after a refusal, and with it the text.
    #[track_caller]
    fn abandon(self) {
        self.take(self.editor.dismiss, "", "");
        self.take(self.editor.abandon, "", "");
        self.terminal.shows(&["ended with 0"]);
    }
}

impl Trees {
    /// Opens the file of that ID in an editor.
    fn open<'a>(&self, editor: &'a Editor, directory: &Path, id: &'a str) -> Session<'a> {
        let command = editor.command.replace("$T", &format!("hold/{id}.json"));
        let there = directory.join(format!("hold/{id}.json")).exists();
        let home = self.spool.work();
        let terminal = Terminal::start(&command, directory, &home);
        terminal.shows(&[if there { editor.read } else { editor.new }]);
        Session {
            editor,
            terminal,
            id,
        }
    }

    fn put(&self, id: &str) -> MessageMetadata {
        let stored = MessageMetadata {
            updated: Timestamp::now(),
            ..message(id, Hold)
        };
        let store = self.spool.open();
        store.insert(&ctx(), &stored).unwrap();
        store.close().unwrap();
        fs::write(
            self.disk.join(format!("hold/{id}.json")),
            document::render(&stored),
        )
        .unwrap();
        stored
    }

    /// Nothing is left of a session but the message, and what the editor was told to keep.
    #[track_caller]
    fn is_tidy(&self, id: &str, kept: Option<&str>) {
        let script = "find .retryspool/scratch -type f ! -name '*.refused' -printf '%f\\n' -delete; \
                      ls -A hold | grep -v '^other.json$'";
        let kept = kept.map(|kept| format!("{}\n", kept.replace('*', id)));
        let expected = format!("{}{id}.json", kept.unwrap_or_default());
        assert_eq!(self.mount.bash(script).ok(), expected);
        fs::remove_file(self.mount.path(format!("hold/{id}.json"))).unwrap();
    }
}

/// All that is done with an editor.
fn use_editor(editor: &Editor) {
    let trees = Trees::with_another();
    let other = trees.spool.get("other");

    // A new file: the same at the disk.
    if let Some(write) = editor.write {
        for directory in [&*trees.disk, trees.mount.point()] {
            let session = trees.open(editor, directory, "new");
            session.take(write, "", "");
            assert!(session.save());
            session.quit();
        }
        let new = trees.spool.get("new").unwrap();
        assert_eq!((new.priority, new.state), (17, Hold));
        trees.is_tidy("new", None);
    }

    // One that is there, saved twice: the second time the text still has the first Updated.
    let before = trees.put("old");
    for directory in [&*trees.disk, trees.mount.point()] {
        let session = trees.open(editor, directory, "old");
        session.replace("\"Priority\": 5", "\"Priority\": 17");
        assert!(session.save());
        session.replace("\"Priority\": 17", "\"Priority\": 27");
        assert!(session.save());
        session.quit();
    }
    let after = trees.spool.get("old").unwrap();
    assert!(after.updated > before.updated);
    let expected = MessageMetadata {
        priority: 27,
        updated: after.updated,
        ..before
    };
    assert_eq!(after, expected);
    trees.is_tidy("old", editor.keeps);

    // An edit that nobody saves leaves what it leaves on the disk.
    let before = trees.put("left");
    let [disk, here] = [&*trees.disk, trees.mount.point()].map(|directory| {
        let session = trees.open(editor, directory, "left");
        session.replace("\"Priority\": 5", "\"Priority\": 17");
        session.take(editor.abandon, "", "");
        session.terminal.shows(&["ended with 0"]);
        let names = "{ ls -A hold; find .retryspool/scratch -type f -printf '%f\\n' -delete; } \
                     2> /dev/null | grep left | sort";
        let shell = &["bash"];
        trees.spool.start_in(shell, names, directory).wait().ok()
    });
    assert_eq!(here, disk);
    assert_eq!(trees.spool.get("left"), Some(before));
    trees.is_tidy("left", None);

    // A worker changes it meanwhile, in the same second.
    for (id, statement) in ["move", "replace"].into_iter().zip(WORKER) {
        trees.put(id);
        let session = trees.open(editor, trees.mount.point(), id);
        session.replace("\"Priority\": 5", "\"Priority\": 17");
        trees.spool.execute(&statement.replace("$ID", id));
        let worked = trees.spool.get(id).unwrap();
        assert!(worker_was_here(&worked));
        assert!(!session.save(), "{}", session.terminal.screen());
        assert_eq!(trees.spool.get(id), Some(worked.clone()));
        session.abandon();
        assert_eq!(trees.spool.get(id), Some(worked));
        trees
            .mount
            .refused(&format!("hold/{id}.json ESTALE"), "changed after this copy");
        trees.is_tidy(id, editor.rescues);
    }

    // A document that is not legal: the editor keeps its text, and the message stays. Then it is
    // mended, and saved by the same editor.
    let before = trees.put("bad");
    let session = trees.open(editor, trees.mount.point(), "bad");
    session.replace("\"Priority\": 5", "\"Priorty\": 17");
    assert!(!session.save(), "{}", session.terminal.screen());
    assert_eq!(trees.spool.get("bad"), Some(before.clone()));
    session.take(editor.dismiss, "", "");
    session.take(&[See("\"Priorty\": 17")], "", "");
    trees
        .mount
        .refused("hold/bad.json EBADMSG", "unknown key \"Priorty\"");
    session.replace("\"Priorty\": 17", "\"Priority\": 27");
    assert!(session.save(), "{}", session.terminal.screen());
    session.quit();
    assert_eq!(trees.spool.get("bad").unwrap().priority, 27);
    trees.is_tidy("bad", editor.keeps);

    assert_eq!(trees.spool.get("other"), other);
}

#[test]
fn vim() {
    use_editor(&VIM);
}

#[test]
fn vim_with_backup() {
    use_editor(&Editor {
        command: "vim --clean -c 'set backupskip= backup backupcopy=no' $T",
        keeps: Some("*.json~"),
        ..VIM
    });
}

#[test]
fn vim_with_backupcopy() {
    use_editor(&Editor {
        command: "vim --clean -c 'set backupskip= backup backupcopy=yes' $T",
        keeps: Some("*.json~"),
        rescues: Some("*.json~"),
        ..VIM
    });
}

#[test]
fn vim_without_swapfile() {
    use_editor(&Editor {
        command: "vim --clean -n -c 'set backupskip= backupcopy=no' $T",
        ..VIM
    });
}

/// A refused write makes vim remove what it has just created, and rename its backup back to the
/// name: the message outlives that, vim keeps its text, and finds the message under its name.
#[test]
fn vim_puts_its_backup_back_after_a_refusal() {
    let trees = Trees::with_another();
    let editor = Editor {
        command: "vim --clean -c 'set backupskip= backupcopy=no' $T",
        ..VIM
    };
    let before = trees.put("a");
    let session = trees.open(&editor, trees.mount.point(), "a");
    session.replace("\"Priority\": 5", "\"Priorty\": 5");
    for _ in 0..2 {
        assert!(!session.save());
        session.take(editor.dismiss, "", "");
        session.take(&[See("\"Priorty\": 5")], "", "");
        assert_eq!(trees.spool.get("a"), Some(before.clone()));
        // Its swap file is there, its backup is not.
        let left = "find .retryspool/scratch -type f ! -name '*.refused' -printf '%f\\n'";
        assert_eq!(trees.mount.bash(left).ok(), ".a.json.swp");
    }
    session.take(&[Type(":e!"), Press(&["Enter"])], "", "");
    session.take(&[See("\"Priority\": 5")], "", "");
    session.quit();
    assert_eq!(trees.spool.get("a"), Some(before));
    trees.is_tidy("a", None);
}

#[test]
fn nano() {
    use_editor(&NANO);
}

#[test]
fn emacs() {
    use_editor(&EMACS);
}

#[test]
fn mcedit() {
    use_editor(&MCEDIT);
}

/// It makes an empty file, closes it, and opens it again: but an empty file is no message.
#[test]
fn mcedit_makes_no_new_file() {
    let trees = Trees::with_another();
    let terminal = Terminal::start(
        "mcedit hold/new.json",
        trees.mount.point(),
        &trees.spool.work(),
    );
    terminal.shows(&["Cannot open"]);
    terminal.press(&["Enter"]);
    terminal.shows(&["ended with 1"]);
    trees
        .mount
        .refused("hold/new.json EBADMSG", "the file is empty");
    assert_eq!(trees.spool.get("new"), None);
}
