//! Tools that write a whole file: what they are given becomes the message.

use crate::row::{Refused, run, writes};

#[test]
fn coreutils_cp() {
    let closes: Refused = (1, "cp: failed to close '$T': $WHY");
    run(&[
        writes("cp $DOC $T", closes),
        writes("cp -p $DOC $T", closes),
        writes("cp -a $DOC $T", closes),
        writes("cp -f $DOC hold/", closes),
        writes("cp --backup=simple $DOC $T", closes).leaves(&["*.json~"]),
        writes("cp --backup=numbered $DOC $T", closes).leaves(&["*.json.~1~"]),
        writes("cp --remove-destination $DOC $T", closes).overrules(),
    ]);
}

#[test]
fn coreutils_install() {
    let closes: Refused = (1, "install: failed to close '$T': $WHY");
    run(&[
        writes("install $DOC $T", closes).overrules(),
        writes("install -m 600 -o root -g root $DOC $T", closes).overrules(),
        writes("install -C $DOC $T", closes).overrules(),
        writes("install -p -t hold $DOC", closes).overrules(),
        writes("install -b $DOC $T", closes).leaves(&["*.json~"]),
    ]);
}

/// From another filesystem `mv` copies: it removes the target, or makes a backup of it.
#[test]
fn coreutils_mv_from_elsewhere() {
    let closes: Refused = (1, "mv: failed to close '$T': $WHY");
    run(&[
        writes("mv $DOC $T", closes).overrules(),
        writes("mv -f $DOC hold", closes).overrules(),
        writes("touch -d '+1 hour' $DOC; mv -u $DOC $T", closes).overrules(),
        writes("mv -b $DOC $T", closes).leaves(&["*.json~"]),
        writes("mv --backup=numbered $DOC $T", closes).leaves(&["*.json.~1~"]),
        writes("ls $DOC | xargs -P8 mv -t hold", (123, closes.1)).overrules(),
    ]);
}

/// Within the mount it renames.
#[test]
fn coreutils_mv_of_a_scratch_file() {
    let moves: Refused = (1, "mv: cannot move 'hold/.mine' to '$T': $WHY");
    run(&[
        writes("cp $DOC hold/.mine; mv hold/.mine $T", moves),
        writes("cp $DOC hold/.mine; mv -f hold/.mine $T", moves),
        writes(
            "cp $DOC hold/.mine; touch -d '+1 hour' $T; mv -u hold/.mine $T",
            moves,
        ),
        writes("cp $DOC hold/.mine; mv -b hold/.mine $T", moves).leaves(&["*.json~"]),
        writes(
            "cp $DOC deferred/.mine; mv -T deferred/.mine $T",
            (1, "mv: cannot move 'deferred/.mine' to '$T': $WHY"),
        ),
    ]);
}

#[test]
fn writing_in_place() {
    run(&[
        writes("tee $T < $DOC > /dev/null", (1, "tee: $T: $WHY")),
        writes(
            "dd if=$DOC of=$T status=none",
            (1, "dd: closing output file '$T': $WHY"),
        ),
        writes(
            "dd if=$DOC of=$T status=none bs=32 conv=fsync",
            (
                1,
                "dd: fsync failed for '$T': $WHY\ndd: closing output file '$T': $WHY",
            ),
        ),
        writes("cat $DOC > $T", (1, "cat: write error: $WHY")),
        writes("jq . $DOC > $T", (2, "Error: writing output failed: $WHY")),
        writes(
            "jq . $DOC | sponge $T",
            (1, "error writing buffer to output file: $WHY"),
        ),
    ]);
}

/// Its `tee` looks at no close: the refusal is in `errors` alone. Debian's has no `install`.
#[test]
fn busybox() {
    run(&[
        writes("busybox cp $DOC $T", (1, "cp: error writing to '$T': $WHY")),
        writes(
            "busybox cp -a $DOC $T",
            (1, "cp: error writing to '$T': $WHY*"),
        ),
        writes(
            "busybox mv $DOC $T",
            (1, "mv: error writing to '$T': $WHY*"),
        )
        .overrules(),
        writes("busybox tee $T < $DOC > /dev/null", (0, "")),
        writes(
            "busybox cp $DOC hold/.mine; busybox mv hold/.mine $T",
            (1, "mv: can't rename 'hold/.mine': $WHY"),
        ),
        writes("busybox dd if=$DOC of=$T 2> /dev/null", (1, "")),
        writes(
            "tar -C ../work -cf - $ID.json | busybox tar -C hold -xf -",
            (0, ""),
        )
        .overrules(),
    ]);
}

#[test]
fn archives() {
    let closes: Refused = (
        2,
        "tar: $ID.json: Cannot close: $WHY\n\
         tar: Exiting with failure status due to previous errors",
    );
    run(&[
        writes("tar -C ../work -c $ID.json | tar -C hold -x", closes).overrules(),
        writes("tar -C ../work -c $ID.json | tar -C hold -xp -U", closes).overrules(),
        writes(
            "tar -C ../work -c $ID.json | tar -C hold --overwrite -x",
            closes,
        ),
        writes(
            "(cd ../work; echo $ID.json | cpio -o --quiet) | (cd hold; cpio -iu --quiet)",
            (2, "cpio: $ID.json: Cannot close: $WHY"),
        )
        .overrules(),
    ]);
}

#[test]
fn rsync() {
    let renames: Refused = (
        23,
        "rsync: [receiver] rename \"*/hold/.$ID.json.*\" -> \"$ID.json\": $WHY (*)\n\
         rsync error: some files/attrs were not transferred (see previous errors) (code 23) at *",
    );
    let closes: Refused = (
        11,
        "rsync: [receiver] close failed on \"*/$T\": $WHY (*)\n\
         rsync error: error in file IO (code 11) at *",
    );
    run(&[
        writes("rsync -a $DOC $T", renames),
        writes("rsync -a $DOC hold/", renames),
        writes("rsync -a --inplace $DOC $T", closes),
        writes("rsync -a --backup $DOC $T", renames).leaves(&["*.json~"]),
    ]);
}

#[test]
fn python() {
    const OPEN: &str = "python3 -c '
import os
with open(os.environ[\"T\"], \"w\") as f: f.write(open(os.environ[\"DOC\"]).read())'";
    const COPY2: &str = "python3 -c '
import os, shutil
shutil.copy2(os.environ[\"DOC\"], os.environ[\"T\"])'";
    const MOVE: &str = "python3 -c '
import os, shutil
shutil.move(os.environ[\"DOC\"], os.environ[\"T\"])'";
    const REPLACE: &str = "python3 -c '
import os, tempfile
with tempfile.NamedTemporaryFile(\"w\", dir=\"hold\", delete=False) as f:
    f.write(open(os.environ[\"DOC\"]).read())
os.replace(f.name, os.environ[\"T\"])'";
    const ATOMIC: &str = "python3 -c '
import os, tempfile
fd, name = tempfile.mkstemp(dir=\"hold\")
os.write(fd, open(os.environ[\"DOC\"], \"rb\").read())
os.fsync(fd); os.close(fd)
os.rename(name, os.environ[\"T\"])'";
    let closes: Refused = (1, "Traceback *\nOSError: [Errno *] $WHY");
    let renames: Refused = (
        1,
        "Traceback *\nOSError: [Errno *] $WHY: '*hold/tmp*' -> '$T'",
    );
    run(&[
        writes(OPEN, closes),
        writes(COPY2, closes),
        writes(MOVE, closes),
        writes(REPLACE, renames),
        writes(ATOMIC, renames),
    ]);
}
