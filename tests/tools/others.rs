//! Tools that read, move and remove, on the mount and on the disk.

use std::fs;

use retryspoolfs::MessageMetadata;
use retryspoolfs::QueueState::{Deferred, Hold};

use crate::support::{Spool, message};
use crate::terminal::Terminal;
use crate::trees::Trees;

#[test]
fn tools_that_read_say_what_they_say_on_the_disk() {
    Trees::new().same(&[
        "ls; ls -A hold deferred; ls -1U bounce",
        "ls -l --color=always --time-style=full-iso hold | tail -n +2",
        "ls -la --color=always hold/nothing.json",
        "ls -i $A > /dev/null; stat -c '%n %s %h %F %a %U %Y' $A",
        "du -b $A $B; du -s hold > /dev/null; du --apparent-size -ab deferred | grep json | sort",
        "df . > /dev/null && df -i hold > /dev/null",
        "cat $A; head -n 3 $B; tail -n 2 $C; tac $D; wc $A; md5sum $A",
        "cmp $A $B; diff $A $B; diff -q $A $A",
        "grep -r bob . | sort; grep -rl Priority hold | sort; grep -c nothing $A",
        "grep '<bob@' $A; grep -rL '<bob@' .",
        "rg --sort path --no-heading bob; rg -l --sort path Priority hold; rg nothing",
        "find . -name '*.json' | sort; find hold -empty; find . -type d | sort",
        "find hold -name \"${A#*/}\" -exec cat {} +; find . -size +1M -exec echo {} \\;",
        "find . -newermt '2001-01-01' -type f | sort; find . -mmin +10 -type f | sort; find . -links 2 | sort",
        "jq -r .ID $A $B $C; jq -s 'map(.Priority) | add' hold/*.json",
        "flock $A echo locked; flock -s $A -c 'flock -n '$A' echo both'; echo $?",
        "exec 3< $A; flock 3; flock -n $A true; echo $?; flock -u 3; flock -n $A true; echo $?",
        "tar -c hold | tar -t | sort; tar -c $A | tar -xO | cmp - $A",
        "cp -r hold ../work/copy && diff -r hold ../work/copy; rm -r ../work/copy",
        "rsync -a hold/ ../work/copy/ && diff -r hold ../work/copy; rm -r ../work/copy",
        "cp -p $A ../work/a; test ../work/a -nt $A; echo $?; test ../work/a -ot $A; echo $?",
        "less $A | cat; file=$(mktemp); less $B > $file; cmp $file $B; rm $file",
        "timeout 0.2 tail -f $A; echo $?",
        "busybox ls hold; busybox cat $A; busybox find . -name '*.json' | sort; busybox grep -r bob hold | sort",
        "python3 -c 'import os, sys; print(sorted(os.listdir(\"hold\")), [os.stat(p).st_size for p in sys.argv[1:]])' $A $C",
        "ls hold | xargs -I{} -P8 cat hold/{} | sort | uniq -c",
    ]);
}

#[test]
fn tools_that_move_and_remove_do_what_they_do_on_the_disk() {
    Trees::new().same(&[
        "mv $A deferred/; mv $C hold/; ls hold deferred",
        "mv -v $A $B deferred",
        "mv -n $A deferred; mv -n $A $A",
        "mv -f $A deferred; mv $A deferred",
        "mv -u $A deferred; mv -i $B deferred < /dev/null",
        "mv -t deferred -- $A $B; ls deferred",
        "mv -T $A bounce/${A#*/}",
        "ls -d hold/* | xargs -P8 -n 1 mv -t bounce",
        "find deferred -name '*.json' -exec mv {} incoming/ \\;",
        "find incoming -type f -name 'r*.json' -delete; ls incoming",
        "rm $A; rm $A; rm -f $A; rm -v $B",
        "rm -i $A < /dev/null; unlink $B; unlink $B",
        "busybox mv $A deferred/; busybox rm $B; busybox mv $B deferred/",
        "python3 -c 'import os, shutil, sys; os.rename(sys.argv[1], \"deferred/\" + os.path.basename(sys.argv[1])); shutil.move(sys.argv[2], \"deferred\")' $A $B",
        "perl -e 'rename $ARGV[0], \"deferred/\" . substr($ARGV[0], 5) or die $!; unlink $ARGV[1] or die $!' $A $B",
        "touch $A; touch -c hold/nothing.json; touch -d yesterday $B; chmod 600 $A; chown root: $A",
        "truncate -s +0 $A; truncate -c -s 0 hold/nothing.json; : >> $A; true 3<> $A",
        "cp hold/nothing.json $A; install hold/nothing.json $A; cp $A $A",
        "mv -b $A deferred; cp -n $B $C; ls hold deferred",
        "mkdir hold; rmdir nothing; rm -d nothing; ls nothing",
    ]);
}

/// Where the tree is no ordinary one, the tool says so, and nothing is changed.
#[test]
fn what_a_spool_does_not_do_is_said() {
    let no = "Operation not permitted";
    Trees::new().differ(&[
        // No links, no directories, no devices.
        (
            "ln $A hold/link.json",
            1,
            &format!("ln: failed to create hard link 'hold/link.json' => 'hold/r#a.json': {no}"),
        ),
        (
            "ln -s $A hold/link.json",
            1,
            &format!("ln: failed to create symbolic link 'hold/link.json': {no}"),
        ),
        (
            "ln -f $A $B",
            1,
            &format!("ln: failed to create hard link 'hold/r#b.json' => 'hold/r#a.json': {no}"),
        ),
        (
            "mkdir hold/new",
            1,
            &format!("mkdir: cannot create directory ‘hold/new’: {no}"),
        ),
        (
            "rmdir bounce",
            1,
            &format!("rmdir: failed to remove 'bounce': {no}"),
        ),
        (
            "mkfifo hold/pipe",
            1,
            &format!("mkfifo: cannot create fifo 'hold/pipe': {no}"),
        ),
        // A message keeps its ID, and the directories their names.
        (
            "mv $A hold/other.json",
            1,
            &format!("mv: cannot move 'hold/r#a.json' to 'hold/other.json': {no}"),
        ),
        (
            "mv hold held",
            1,
            &format!("mv: cannot move 'hold' to 'held': {no}"),
        ),
        (
            "mv $A .",
            1,
            &format!("mv: cannot move 'hold/r#a.json' to './r#a.json': {no}"),
        ),
        // An ID is in one state: there is nothing in the other that could be replaced.
        (
            "cp $A deferred/",
            1,
            "cp: cannot create regular file 'deferred/r#a.json': File exists",
        ),
        // What is not a document is no message.
        (
            "truncate -s 0 $A",
            1,
            "truncate: failed to close 'hold/r#a.json': Bad message",
        ),
        (
            "truncate -s 9 $A",
            1,
            "truncate: failed to close 'hold/r#a.json': Bad message",
        ),
        (
            "cp /dev/null $A",
            1,
            "cp: failed to close 'hold/r#a.json': Bad message",
        ),
        // A file without a word in it is none either, and nobody is told but `errors`.
        (
            "touch hold/new.json; ls hold/new.json",
            2,
            "ls: cannot access 'hold/new.json': No such file or directory",
        ),
    ]);
}

/// What inotify tells of a change that was made in the mount is what it tells of one on the disk.
#[test]
fn inotifywait() {
    let trees = Trees::new();
    trees.same(&["true"]);
    let script = "A=hold/r0a.json
        inotifywait -q -m -e create,delete,moved_from,moved_to,close_write --format '%e %w%f' \
            hold deferred > ../work/events 2> ../work/said & pid=$!
        until grep -qs inotify /proc/$pid/fdinfo/*; do sleep 0.01; done
        cp $A ../work/a; cat ../work/a > $A; mv $A deferred/; rm deferred/r0a.json
        cp ../work/a hold/.new; mv hold/.new $A; rm hold/r0b.json
        until grep -q 'DELETE hold/r0b.json' ../work/events; do sleep 0.01; done
        kill $pid; wait; cat ../work/events; rm ../work/a";
    let start = |directory| {
        trees
            .spool
            .start_in(&["bash"], script, directory)
            .wait()
            .ok()
    };
    let disk = start(&*trees.disk);
    assert!(disk.contains("MOVED_TO deferred/r0a.json"), "{disk}");
    assert_eq!(start(trees.mount.point()), disk);
}

/// The control files are followed like any log.
#[test]
fn tail_and_less_follow_the_errors() {
    let spool = Spool::with([message("a", Hold)]);
    let mount = spool.mount("");
    let refuse = |key: &str| {
        let text = format!("{{\"ID\": \"a\", \"{key}\": 1}}");
        fs::write(spool.work().join("bad"), text).unwrap();
        let copied = mount.bash("cp $WORK/bad hold/a.json");
        copied.fails("Bad message");
    };
    refuse("First");
    let less = Terminal::start("less +F .retryspool/errors", mount.point(), &spool.work());
    let tail = Terminal::start(
        "tail -n 20 -f .retryspool/errors",
        mount.point(),
        &spool.work(),
    );
    for terminal in [&less, &tail] {
        terminal.shows(&["First"]);
    }
    for key in ["Second", "Third"] {
        refuse(key);
        for terminal in [&less, &tail] {
            terminal.shows(&[key]);
        }
    }
}

/// A thousand messages, moved by eight processes at once, arrive each once.
#[test]
fn xargs_moves_in_parallel() {
    let spool = Spool::with((0..1000).map(|n| message(&format!("m{n}"), Deferred)));
    let mount = spool.mount("");
    let script = "ls deferred | sed 's,^,deferred/,' | xargs -P8 -n 25 mv -t hold; \
                  ls deferred | wc -l; ls hold | wc -l; stat -c %s deferred hold";
    assert_eq!(mount.bash(script).ok(), "0\n1000\n0\n1000");
    assert_eq!((spool.count(Deferred), spool.count(Hold)), (0, 1000));
    assert_eq!(mount.errors(), Vec::<String>::new());
}

/// A tool that removed the message to replace it, and was killed in the middle of that.
#[test]
fn a_tool_killed_while_it_replaces_a_message_loses_nothing() {
    let spool = Spool::with([message("a", Hold)]);
    let mount = spool.mount("");
    let before = spool.get("a").unwrap();
    let script = "import os, signal
os.unlink('hold/a.json')
fd = os.open('hold/a.json', os.O_WRONLY | os.O_CREAT | os.O_EXCL)
os.write(fd, b'{\"ID\": \"a\", ')
os.kill(os.getpid(), signal.SIGKILL)";
    assert!(!mount.python(script).status.success());
    mount.refused("unlink hold/a.json", "the message was put back");
    let after = spool.get("a").unwrap();
    assert!(after.updated > before.updated);
    let updated = before.updated;
    assert_eq!(MessageMetadata { updated, ..after }, before);
}
