//! Tools that change what is there.

use crate::row::{ERRNO, Refused, edits, run};

#[test]
fn sed_in_place() {
    let renames: Refused = (4, "sed: cannot rename hold/sed*: $WHY");
    run(&[
        edits(
            "sed -i -e \"1e $MEANWHILE\" -e \"s/$OLD/$NEW/\" $T",
            renames,
        ),
        edits(
            "sed -i.bak -e \"1e $MEANWHILE\" -e \"s/$OLD/$NEW/\" $T",
            renames,
        )
        .leaves(&["*.json.bak"]),
    ]);
}

/// Busybox's runs no program, but it waits for what it appends.
#[test]
fn busybox_sed_in_place() {
    const SED: &str = "mkfifo ../work/$ID.fifo; (exec 3> ../work/$ID.fifo; $MEANWHILE) & \
        busybox sed -i -e \"1r ../work/$ID.fifo\" -e \"s/$OLD/$NEW/\" $T; e=$?; \
        kill $! 2> /dev/null; wait; rm ../work/$ID.fifo; exit $e";
    run(&[edits(SED, (1, "sed: can't move '*' to '$T': $WHY"))]);
}

#[test]
fn perl_in_place() {
    let renames: Refused = (
        ERRNO,
        "Cannot complete in-place edit of $T: failed to rename work file 'hold/XX*' to '$T': $WHY, *",
    );
    run(&[
        edits(
            "perl -pi -e 'system($ENV{MEANWHILE}) if $. == 1; s/$ENV{OLD}/$ENV{NEW}/' $T",
            renames,
        ),
        edits(
            "perl -pi.bak -e 'system($ENV{MEANWHILE}) if $. == 1; s/$ENV{OLD}/$ENV{NEW}/' $T",
            renames,
        )
        .leaves(&["*.json.bak"]),
    ]);
}

#[test]
fn filters() {
    const PYTHON: &str = "python3 -c '
import os
e = os.environ
text = open(e[\"T\"]).read().replace(e[\"OLD\"], e[\"NEW\"])
assert os.system(e[\"MEANWHILE\"]) == 0
with open(e[\"T\"], \"w\") as f: f.write(text)'";
    const READ_WRITE: &str = "python3 -c '
import os
e = os.environ
with open(e[\"T\"], \"r+\") as f:
    text = f.read().replace(e[\"OLD\"], e[\"NEW\"])
    assert os.system(e[\"MEANWHILE\"]) == 0
    f.seek(0); f.truncate(); f.write(text)'";
    let closes: Refused = (1, "Traceback *\nOSError: [Errno *] $WHY");
    run(&[
        edits(
            "{ cat $T; $MEANWHILE; } | jq \"$JQ\" | sponge $T",
            (1, "error writing buffer to output file: $WHY"),
        ),
        edits(PYTHON, closes),
        edits(READ_WRITE, closes),
    ]);
}
