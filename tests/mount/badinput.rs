//! Names and documents that are none: each with its errno, its line in `.retryspool/errors`, and
//! every row as it was.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use retryspoolfs::QueueState::{Deferred, Hold};
use retryspoolfs::document::{self, MAX_LEN};
use retryspoolfs::{MessageId, MessageMetadata};

use crate::support::{
    Mount, Named, Spool, close, create, errno, eventually, message, rename, stat, store, truncate,
    write,
};

#[test]
fn ids_of_every_kind_have_a_file() {
    let mount = Spool::new().mount("");
    let longest = "a".repeat(250);
    let slashes = "/".repeat(83);
    for (id, name) in [
        ("../x", "%2E.%2Fx.json"),
        ("a/b", "a%2Fb.json"),
        (".hidden", "%2Ehidden.json"),
        (".", "%2E.json"),
        ("%2f", "%252f.json"),
        (&longest, &format!("{longest}.json")),
        (&slashes, &format!("{}.json", "%2F".repeat(83))),
        ("grüße-☃-𝄞", "grüße-☃-𝄞.json"),
        ("a\nb", "a%0Ab.json"),
        ("a\0b\u{7f}", "a%00b%7F.json"),
        ("it's \"quoted\" \\ ", "it's \"quoted\" \\ .json"),
        ("x.json", "x.json.json"),
        ("x.json~", "x.json~.json"),
        ("#x.json#", "#x.json#.json"),
        ("4913", "4913.json"),
        ("-rf", "-rf.json"),
        ("*", "*.json"),
        (" ", " .json"),
    ] {
        let document = document::render(&MessageMetadata {
            state: Deferred,
            ..message(id, Hold)
        });
        let path = mount.path("hold").join(name);
        store(&path, &document).unwrap_or_else(|e| panic!("{id:?}: {e}"));
        assert_eq!(mount.spool().state(id), Some(Hold), "{id:?}");
        assert_eq!(
            mount.bash("ls -N --zero hold | tr -d '\\0'").ok(),
            name,
            "{id:?}"
        );
        let read = std::fs::read(&path).unwrap();
        let state_of_directory = document::render(&mount.spool().get(id).unwrap());
        assert_eq!(read, state_of_directory, "{id:?}");
        mount
            .bash("mv -- hold/* deferred/ && rm -r deferred/*")
            .ok();
        assert_eq!(mount.spool().get(id), None, "{id:?}");
    }
    assert_eq!(mount.errors(), Vec::<String>::new());
}

#[test]
fn names_of_no_id_do_not_exist_and_cannot_be_made() {
    let mount = Spool::with([message("a", Hold), message("/", Hold)]).mount("");
    let before = mount.spool().rows();
    store(mount.path("hold/.draft"), r#"{"ID":"a"}"#).unwrap();
    let names: [&[u8]; 11] = [
        b"%2f.json",
        b"%61.json",
        b"a%41.json",
        b"%.json",
        b"%2.json",
        b"%zz.json",
        b"a\nb.json",
        b"\x7f.json",
        b"\xff.json",
        b"a\xc3.json",
        b"%FF.json",
    ];
    for name in names {
        let shown = String::from_utf8_lossy(name);
        let path = mount.path("hold").join(OsStr::from_bytes(name));
        assert_eq!(errno(stat(&path)), Err(Named(libc::ENOENT)), "{shown}");
        assert_eq!(errno(create(&path)), Err(Named(libc::EINVAL)), "{shown}");
        let renamed = rename(mount.path("hold/.draft"), &path);
        assert_eq!(errno(renamed), Err(Named(libc::EINVAL)), "{shown}");
        let renamed = rename(mount.path("hold/a.json"), &path);
        assert!(errno(renamed).is_err(), "{shown}");
        let removed = std::fs::remove_file(&path);
        assert_eq!(errno(removed), Err(Named(libc::ENOENT)), "{shown}");
    }
    mount.refused("hold/%2f.json EINVAL", "");
    mount.refused("hold/a%41.json EINVAL", "");
    assert_eq!(mount.spool().rows(), before);
    assert_eq!(mount.bash("ls -A hold").ok(), "%2F.json\na.json");
}

#[test]
fn a_name_has_255_bytes_at_most() {
    let mount = Spool::new().mount("");
    for name in [
        format!("{}.json", "a".repeat(251)),
        format!("{}.json", "%2F".repeat(84)),
        format!(".{}", "a".repeat(255)),
        "a".repeat(1_000),
    ] {
        let path = mount.path("hold").join(&name);
        let made = errno(create(&path));
        let refusals = [Err(Named(libc::ENAMETOOLONG)), Err(Named(libc::EINVAL))];
        assert!(refusals.contains(&made), "{} bytes: {made:?}", name.len());
        assert!(errno(stat(&path)).is_err());
    }
    assert_eq!(mount.bash("stat -f -c %l .").ok(), "255");
    assert!("a".repeat(251).parse::<MessageId>().is_err());
}

/// Bad documents of the message `a`.
fn bad_documents() -> Vec<(&'static str, Vec<u8>)> {
    let mut documents: Vec<(&str, Vec<u8>)> = [
        ("no JSON", "hello"),
        ("no object", "[]"),
        ("a string", "\"a\""),
        ("two values", r#"{"ID":"a"} {"ID":"a"}"#),
        ("something after it", r#"{"ID":"a"}x"#),
        ("a comma too much", r#"{"ID":"a",}"#),
        ("no ID", r#"{"Priority":5}"#),
        ("another's ID", r#"{"ID":"b"}"#),
        ("an empty ID", r#"{"ID":""}"#),
        ("an ID that is no string", r#"{"ID":1}"#),
        ("an unknown key", r#"{"ID":"a","Priorty":5}"#),
        ("a key of another case", r#"{"ID":"a","priority":5}"#),
        ("a repeated key", r#"{"ID":"a","Size":1,"Size":2}"#),
        ("a repeated ID", r#"{"ID":"a","ID":"a"}"#),
        (
            "a repeated header",
            r#"{"ID":"a","Headers":{"to":"b","to":"c"}}"#,
        ),
        ("2^63", r#"{"ID":"a","Size":9223372036854775808}"#),
        ("2^64", r#"{"ID":"a","Size":18446744073709551616}"#),
        ("-2^63-1", r#"{"ID":"a","Priority":-9223372036854775809}"#),
        ("-1 attempts", r#"{"ID":"a","Attempts":-1}"#),
        ("1e400", r#"{"ID":"a","Attempts":1e400}"#),
        ("a fraction", r#"{"ID":"a","Attempts":1.5}"#),
        ("a number in a string", r#"{"ID":"a","Attempts":"1"}"#),
        ("null", r#"{"ID":"a","Attempts":null}"#),
        ("state 6", r#"{"ID":"a","State":6}"#),
        ("no state", r#"{"ID":"a","State":"later"}"#),
        (
            "a lone leading surrogate",
            r#"{"ID":"a","LastError":"\ud800"}"#,
        ),
        (
            "a lone trailing surrogate",
            r#"{"ID":"a","LastError":"\udc00"}"#,
        ),
        ("NUL as itself", "{\"ID\":\"a\",\"LastError\":\"\0\"}"),
        (
            "the year 10000",
            r#"{"ID":"a","Created":"10000-01-01T00:00:00Z"}"#,
        ),
        (
            "the year 0",
            r#"{"ID":"a","Created":"0000-01-01T00:00:00Z"}"#,
        ),
        ("no zone", r#"{"ID":"a","Created":"2026-11-23T10:15:00"}"#),
        ("no time", r#"{"ID":"a","Created":"today"}"#),
        ("a number for a time", r#"{"ID":"a","Created":1700000000}"#),
        (
            "headers that are no strings",
            r#"{"ID":"a","Headers":{"to":1}}"#,
        ),
        ("headers that are a list", r#"{"ID":"a","Headers":["to"]}"#),
        ("a byte order mark", "\u{feff}{\"ID\":\"a\"}"),
        ("white space", " \n\n"),
    ]
    .map(|(what, text)| (what, text.as_bytes().to_vec()))
    .into();
    documents.push((
        "bytes that are no UTF-8",
        b"{\"ID\":\"a\",\"LastError\":\"\xff\"}".to_vec(),
    ));
    let deep = "[".repeat(10_000);
    documents.push(("10,000 arrays", deep.clone().into_bytes()));
    documents.push((
        "10,000 arrays in a key",
        format!("{{\"Headers\":{deep}").into_bytes(),
    ));
    let mut long = br#"{"ID":"a"}"#.to_vec();
    long.resize(MAX_LEN + 1, b' ');
    documents.push(("1 MiB + 1", long));
    documents
}

/// The lines that name this file.
fn lines(mount: &Mount, file: &str) -> usize {
    mount
        .errors()
        .iter()
        .filter(|line| line.contains(file))
        .count()
}

#[test]
fn bad_documents_are_refused() {
    // Of a message that is there, and of one that is not.
    for (directory, spool) in [
        (
            "deferred",
            Spool::with([message("a", Deferred), message("b", Deferred)]),
        ),
        ("hold", Spool::with([message("b", Deferred)])),
    ] {
        let mount = spool.mount("");
        let before = spool.rows();
        let file = format!("{directory}/a.json");
        for (n, (what, document)) in bad_documents().iter().enumerate() {
            let stored = store(mount.path(&file), document);
            assert_eq!(errno(stored), Err(Named(libc::EBADMSG)), "{what}");
            let refusal = format!("close {file} EBADMSG");
            eventually(what, || lines(&mount, &refusal) > n);
            assert_eq!(lines(&mount, &file), n + 1, "{what}: {:#?}", mount.errors());
            assert_eq!(spool.rows(), before, "{what}");
        }
        mount.refused(&file, "unknown key \"Priorty\" at line 1 column 19");
        mount.refused(&file, "nothing was changed");
        assert_eq!(mount.path(&file).exists(), directory == "deferred");
    }
}

#[test]
fn bad_documents_are_refused_when_a_file_is_renamed_onto_the_message() {
    let mount = Spool::with([message("a", Deferred)]).mount("");
    let before = mount.spool().rows();
    for (what, document) in bad_documents() {
        if document.len() > MAX_LEN {
            continue; // No scratch file can be as long.
        }
        for file in ["deferred/a.json", "hold/a.json"] {
            store(mount.path("hold/.draft"), &document).unwrap();
            let renamed = rename(mount.path("hold/.draft"), mount.path(file));
            assert_eq!(errno(renamed), Err(Named(libc::EBADMSG)), "{what} {file}");
            // The draft is still there for its writer.
            assert_eq!(
                std::fs::read(mount.path("hold/.draft")).unwrap(),
                document,
                "{what}"
            );
        }
        assert_eq!(mount.spool().rows(), before, "{what}");
    }
    mount.refused(
        "rename hold/.draft -> hold/a.json EBADMSG",
        "unknown key \"Priorty\"",
    );
    let onto_another = mount.bash("mv hold/.draft hold/c.json");
    onto_another.fails("Bad message");
    assert_eq!(mount.bash("find . -type f").ok(), "./deferred/a.json");
}

#[test]
fn a_document_that_was_cut_is_refused_at_every_byte() {
    let a = message("a", Deferred);
    let whole = document::render(&a);
    let spool = Spool::with([a]);
    let mount = spool.mount("");
    let before = spool.rows();
    let end = whole.trim_ascii_end().len();
    for length in 0..end {
        let stored = store(mount.path("deferred/a.json"), &whole[..length]);
        assert_eq!(errno(stored), Err(Named(libc::EBADMSG)), "{length} bytes");
        // A new file that is empty is nobody's mistake yet.
        let new = store(mount.path("hold/new.json"), &whole[..length]);
        let expected = if length == 0 {
            Ok(())
        } else {
            Err(Named(libc::EBADMSG))
        };
        assert_eq!(errno(new), expected, "{length} bytes");
    }
    assert_eq!(spool.rows(), before);
    // One line each, written with the last close.
    eventually("every refusal has its line", || {
        lines(&mount, "deferred/a.json") >= end
    });
    assert_eq!(lines(&mount, "deferred/a.json"), end);
    eventually("every refusal has its line", || {
        lines(&mount, "hold/new.json") >= end
    });
    assert_eq!(lines(&mount, "hold/new.json"), end);
    // Without its last newline, and with other ones, it is whole.
    store(mount.path("deferred/a.json"), &whole[..end]).unwrap();
    let crlf = String::from_utf8(whole).unwrap().replace('\n', "\r\n");
    store(mount.path("deferred/a.json"), crlf).unwrap();
    assert_eq!(spool.rows(), before);
}

#[test]
fn unusual_documents_are_stored_as_they_are() {
    let mount = Spool::new().mount("");
    let path = mount.path("hold/a.json");
    for (document, last_error) in [
        (r#"{"ID":"a","LastError":"\u0000\u0001"}"#, "\0\u{1}"),
        (
            r#"{"ID":"a","LastError":"\ud834\udd1e <&>\u2028"}"#,
            "𝄞 <&>\u{2028}",
        ),
        (
            "{\r\n\"ID\":\r\n\"a\",\r\n\"LastError\":\"\\r\\n\"\r\n}\r\n",
            "\r\n",
        ),
        (
            r#"{"ID":"a","LastError":"' OR 1=1; DROP TABLE messages; --"}"#,
            "' OR 1=1; DROP TABLE messages; --",
        ),
    ] {
        store(&path, document).unwrap();
        let a = mount.spool().get("a").unwrap();
        assert_eq!(a.last_error, last_error, "{document}");
        assert_eq!(
            std::fs::read(&path).unwrap(),
            document::render(&a),
            "{document}"
        );
    }
    let extremes = format!(
        r#"{{"ID":"a","Size":{max},"Attempts":{max},"MaxAttempts":{max},"Priority":{min},
            "Created":"0001-01-01T00:00:00Z","NextRetry":"9999-12-31T23:59:59.999999999Z",
            "Headers":{{"":"","Ä\u0000":"\n"}}}}"#,
        max = i64::MAX,
        min = i64::MIN
    );
    store(&path, &extremes).unwrap();
    let a = mount.spool().get("a").unwrap();
    assert_eq!(
        (a.size, a.attempts, a.max_attempts),
        (i64::MAX, i64::MAX, i64::MAX)
    );
    assert_eq!((a.priority, a.headers["Ä\0"].as_str()), (i64::MIN, "\n"));
    let next_retry = "grep NextRetry hold/a.json";
    assert!(
        mount
            .bash(next_retry)
            .ok()
            .contains("9999-12-31T23:59:59.999999999Z")
    );
    let headers =
        "jq '.Headers = null' hold/a.json | sponge hold/a.json; jq -c .Headers hold/a.json";
    // jq 1.6 rounds numbers beyond 2^53, so the extremes go first.
    store(
        &path,
        r#"{"ID":"a","Size":1,"Attempts":1,"MaxAttempts":1,"Priority":0}"#,
    )
    .unwrap();
    assert_eq!(mount.bash(headers).ok(), "{}");
}

#[test]
fn the_longest_document_is_stored() {
    let mount = Spool::new().mount("");
    let mut longest = br#"{"ID":"a","Priority":3}"#.to_vec();
    longest.resize(MAX_LEN, b' ');
    store(mount.path("hold/a.json"), &longest).unwrap();
    assert_eq!(mount.spool().get("a").unwrap().priority, 3);
    let error = "x".repeat(900_000);
    store(
        mount.path("hold/a.json"),
        format!(r#"{{"ID":"a","LastError":"{error}"}}"#),
    )
    .unwrap();
    assert_eq!(
        mount.bash("jq '.LastError | length' hold/a.json").ok(),
        "900000"
    );
}

#[test]
fn no_writer_can_make_the_daemon_swallow_the_memory() {
    let mount = Spool::with([message("a", Deferred)]).mount("");
    let before = mount.spool().rows();
    for length in [MAX_LEN as i64 + 1, 1 << 30, 1 << 40, i64::MAX] {
        for file in ["deferred/a.json", "hold/new.json", "hold/.scratch"] {
            let handle = create(mount.path(file)).unwrap();
            let _ = write(&handle, b"{");
            let refused = truncate(&handle, length).and_then(|()| close(handle));
            assert!(errno(refused).is_err(), "{file} {length}");
        }
        let script = format!(
            "head -c 3000000 /dev/zero | dd of=deferred/a.json bs=1M seek={length} oflag=seek_bytes"
        );
        assert!(!mount.bash(&script).status.success());
    }
    assert_eq!(mount.spool().rows(), before);
    let status = format!("awk '/VmRSS/ {{print $2}}' /proc/{}/status", mount.pid());
    let kilobytes: u64 = mount.bash(&status).ok().parse().unwrap();
    assert!(kilobytes < 400_000, "{kilobytes} kB");
}
