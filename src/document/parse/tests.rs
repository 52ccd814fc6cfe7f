use super::*;
use crate::document::render;

/// The document that the specification shows, byte for byte RetrySpool's own.
const SHOWN: &str = r#"{
  "ID": "msg-123",
  "State": 2,
  "Attempts": 1,
  "MaxAttempts": 10,
  "NextRetry": "2026-11-23T10:15:00Z",
  "Created": "2026-11-23T09:00:00.123456789Z",
  "Updated": "2026-11-23T09:45:00Z",
  "LastError": "451 4.7.1 try again later",
  "Size": 2048,
  "Priority": 5,
  "Headers": {
    "from": "a@example.org",
    "to": "user@example.com"
  },
  "RetryPolicyName": ""
}
"#;

fn id(text: &str) -> MessageId {
    text.parse().unwrap()
}

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}

fn shown() -> MessageMetadata {
    MessageMetadata {
        id: id("msg-123"),
        state: QueueState::Deferred,
        attempts: 1,
        max_attempts: 10,
        next_retry: at("2026-11-23T10:15:00Z"),
        created: at("2026-11-23T09:00:00.123456789Z"),
        updated: at("2026-11-23T09:45:00Z"),
        last_error: "451 4.7.1 try again later".into(),
        size: 2048,
        priority: 5,
        headers: [("from", "a@example.org"), ("to", "user@example.com")]
            .map(|(name, value)| (name.into(), value.into()))
            .into(),
        retry_policy_name: String::new(),
    }
}

fn read(text: &str) -> Result<Document, Problem> {
    parse(text.as_bytes(), &id("a"))
}

fn problem_of(text: &str) -> Problem {
    read(text).expect_err(text)
}

#[test]
fn the_document_is_retryspools() {
    assert_eq!(String::from_utf8(render(&shown())).unwrap(), SHOWN);
    let read = parse(SHOWN.as_bytes(), &id("msg-123")).unwrap();
    assert_eq!(read.updated, Some(shown().updated));
    assert_eq!(read.over(&shown(), QueueState::Deferred), shown());
}

#[test]
fn texts_are_written_as_go_writes_them() {
    let metadata = MessageMetadata {
        last_error:
            "<bob@example.org> & \"co\" \\ \u{8}\u{c}\n\r\t\u{1}\u{7f} ü ☃ 𝄞 \u{2028}\u{2029}"
                .into(),
        ..MessageMetadata::new(id("a"))
    };
    let text = String::from_utf8(render(&metadata)).unwrap();
    let line = text.lines().find(|line| line.contains("LastError"));
    // What Go 1.22's encoder writes with SetEscapeHTML(false).
    let go = r#"  "LastError": "<bob@example.org> & \"co\" \\ \b\f\n\r\t\u0001"#.to_owned()
        + "\u{7f} ü ☃ 𝄞 "
        + r#"\u2028\u2029","#;
    assert_eq!(line, Some(&go[..]));
    assert!(text.contains("\n  \"Headers\": {},\n"));
    assert!(text.contains("\n  \"NextRetry\": \"0001-01-01T00:00:00Z\",\n"));
    let read = parse(text.as_bytes(), &id("a")).unwrap();
    assert_eq!(read.last_error, Some(metadata.last_error));
}

#[test]
fn any_layout_and_either_spelling_of_the_state_are_legal() {
    for text in [
        r#"{"ID":"a","State":3}"#,
        r#"{"State":"hold","ID":"a"}"#,
        "\r\n{\t\"ID\" :\r\n\"a\", \"State\"\n:\n3 }\r\n\r\n",
        r#"{"\u0049D":"\u0061","State":"h\u006fld"}"#,
    ] {
        let expected = Document {
            state: Some(QueueState::Hold),
            ..Document::default()
        };
        assert_eq!(read(text), Ok(expected), "{text}");
    }
}

#[test]
fn values_at_the_ends_of_their_ranges_are_legal() {
    let max = i64::MAX;
    for (text, expected) in [
        (
            format!(r#"{{"ID":"a","Attempts":0,"MaxAttempts":{max},"Size":{max}}}"#),
            Document {
                attempts: Some(0),
                max_attempts: Some(max),
                size: Some(max),
                ..Document::default()
            },
        ),
        (
            format!(r#"{{"ID":"a","Priority":{}}}"#, i64::MIN),
            Document {
                priority: Some(i64::MIN),
                ..Document::default()
            },
        ),
        (
            r#"{"ID":"a","Priority":-0,"NextRetry":"0001-01-01T00:00:00Z"}"#.into(),
            Document {
                priority: Some(0),
                next_retry: Some(Timestamp::ZERO),
                ..Document::default()
            },
        ),
        (
            r#"{"ID":"a","Created":"9999-12-31T23:59:59.999999999Z","Headers":null}"#.into(),
            Document {
                created: Some(Timestamp::MAX),
                headers: Some(BTreeMap::new()),
                ..Document::default()
            },
        ),
        (
            r#"{"ID":"a","LastError":"\u0000\ud834\udd1e","Headers":{"":"","id":"x","ID":"y"}}"#
                .into(),
            Document {
                last_error: Some("\0𝄞".into()),
                headers: Some(
                    [("", ""), ("id", "x"), ("ID", "y")]
                        .map(|(name, value)| (name.into(), value.into()))
                        .into(),
                ),
                ..Document::default()
            },
        ),
    ] {
        assert_eq!(read(&text), Ok(expected), "{text}");
    }
}

#[test]
fn refusals_say_what_is_wrong() {
    for (text, message) in [
        (
            "[]",
            "invalid type: sequence, expected an object with the keys of a message",
        ),
        (
            "null",
            "invalid type: null, expected an object with the keys of a message",
        ),
        (
            "\u{feff}{\"ID\":\"a\"}",
            "the document starts with a byte order mark",
        ),
        (r#"{"ID":"a"} {"ID":"a"}"#, "trailing characters"),
        (r#"{"ID":"a"}}"#, "trailing characters"),
        (r#"{"ID":"a",}"#, "trailing comma"),
        (r#"{ID:"a"}"#, "key must be a string"),
        (r#"{}"#, "there is no \"ID\""),
        (r#"{"id":"a"}"#, "unknown key \"id\""),
        (r#"{"Priorty":5,"ID":"a"}"#, "unknown key \"Priorty\""),
        (r#"{"ID":"a","ID":"a"}"#, "repeated key \"ID\""),
        (r#"{"ID":"a","Size":1,"Size":1}"#, "repeated key \"Size\""),
        (
            r#"{"ID":"a","Headers":{"to":"b","to":"b"}}"#,
            "repeated header \"to\"",
        ),
        (r#"{"ID":"b"}"#, "the ID is \"b\", but the file is a.json's"),
        (r#"{"ID":""}"#, "the ID is \"\", but the file is a.json's"),
        (r#"{"ID":7}"#, "\"ID\" is a number, not a string"),
        (
            r#"{"LastError":null}"#,
            "\"LastError\" is null, not a string",
        ),
        (
            r#"{"LastError":[[]]}"#,
            "\"LastError\" is an array, not a string",
        ),
        (
            r#"{"Headers":[]}"#,
            "invalid type: sequence, expected an object of headers",
        ),
        (
            r#"{"Headers":{"to":7}}"#,
            "header \"to\" is a number, not a string",
        ),
        (
            r#"{"Headers":{"to":null}}"#,
            "header \"to\" is null, not a string",
        ),
        (
            r#"{"Headers":{"to":{}}}"#,
            "header \"to\" is an object, not a string",
        ),
        (
            r#"{"Attempts":"1"}"#,
            "\"Attempts\" is a string, not a whole number from 0 to 2^63-1",
        ),
        (
            r#"{"Attempts":true}"#,
            "\"Attempts\" is true, not a whole number from 0 to 2^63-1",
        ),
        (
            r#"{"Attempts":-1}"#,
            "\"Attempts\" is -1, not a whole number from 0 to 2^63-1",
        ),
        (
            r#"{"MaxAttempts":9223372036854775808}"#,
            "\"MaxAttempts\" is 9223372036854775808, not a whole number from 0 to 2^63-1",
        ),
        (
            r#"{"Size":1.5}"#,
            "\"Size\" is a number with a fraction or an exponent, not a whole number from 0 to 2^63-1",
        ),
        (
            r#"{"Size":18446744073709551616}"#,
            "\"Size\" is a number beyond 64 bits, not a whole number from 0 to 2^63-1",
        ),
        (
            r#"{"Size":1e3}"#,
            "\"Size\" is a number with a fraction or an exponent, not a whole number from 0 to 2^63-1",
        ),
        (r#"{"Size":1e400}"#, "number out of range"),
        (
            r#"{"Priority":-9223372036854775809}"#,
            "\"Priority\" is a number beyond 64 bits, not a whole number from -2^63 to 2^63-1",
        ),
        (
            r#"{"State":6}"#,
            "\"State\" is 6, not the number (0 to 5) or name of a state",
        ),
        (
            r#"{"State":-1}"#,
            "\"State\" is -1, not the number (0 to 5) or name of a state",
        ),
        (
            r#"{"State":"Hold"}"#,
            "\"State\" is \"Hold\", not the number (0 to 5) or name of a state",
        ),
        (
            r#"{"Created":"10000-01-01T00:00:00Z"}"#,
            "\"Created\" is \"10000-01-01T00:00:00Z\", not an RFC 3339 time with its zone, in the years 1 to 9999",
        ),
        (
            r#"{"Created":"2026-11-23T10:15:00"}"#,
            "\"Created\" is \"2026-11-23T10:15:00\", not an RFC 3339 time with its zone, in the years 1 to 9999",
        ),
        (
            r#"{"Updated":0}"#,
            "\"Updated\" is a number, not an RFC 3339 time with its zone, in the years 1 to 9999",
        ),
        (r#"{"LastError":"\ud834"}"#, "unexpected end of hex escape"),
        (
            r#"{"LastError":"\udd1e\ud834"}"#,
            "lone leading surrogate in hex escape",
        ),
        (
            "{\"LastError\":\"\0\"}",
            "control character (\\u0000-\\u001F) found while parsing a string",
        ),
    ] {
        let problem = problem_of(text);
        assert_eq!(problem.message, message, "{text}");
        assert!(!problem.incomplete, "{text}");
    }
    let not_utf8 = parse(b"{\"LastError\":\"\xff\"}", &id("a")).unwrap_err();
    assert_eq!(not_utf8.message, "invalid unicode code point");
}

#[test]
fn a_problem_has_its_place() {
    let text = SHOWN.replace("Priority", "Priorty");
    let problem = parse(text.as_bytes(), &id("msg-123")).unwrap_err();
    assert_eq!(
        problem.to_string(),
        "unknown key \"Priorty\" at line 11 column 11"
    );
    // A text of the writer's that looks like a place stays in the message.
    let problem = problem_of(r#"{"x at line 7 column 8": 1}"#);
    assert_eq!(
        problem.to_string(),
        "unknown key \"x at line 7 column 8\" at line 1 column 23"
    );
    let problem = problem_of("\u{feff}{}");
    assert_eq!(
        problem.to_string(),
        "the document starts with a byte order mark"
    );
}

#[test]
fn a_long_text_of_the_writer_is_shortened() {
    let long = "ü".repeat(200_000);
    for text in [
        format!(r#"{{"{long}":1}}"#),
        format!(r#"{{"ID":"{long}"}}"#),
        format!(r#"{{"State":"{long}"}}"#),
        format!(r#"{{"Headers":"{long}"}}"#),
        format!(r#""{long}""#),
    ] {
        assert!(problem_of(&text).message.len() < 1_000);
    }
}

#[test]
fn a_document_has_a_longest_length() {
    let padded = |len: usize| {
        let (before, after) = (r#"{"ID":"a","LastError":""#, r#""}"#);
        let fill = "x".repeat(len - before.len() - after.len());
        format!("{before}{fill}{after}")
    };
    assert!(read(&padded(MAX_LEN)).is_ok());
    let problem = problem_of(&padded(MAX_LEN + 1));
    assert_eq!(
        problem.message,
        "the document has 1048577 bytes, 1048576 are allowed"
    );
    assert!(!problem.incomplete);
    // A document that breaks off where it may grow no more can't become legal.
    assert!(problem_of(&padded(MAX_LEN)[..MAX_LEN - 1]).incomplete);
    let endless = format!(r#"{{"ID":"{}"#, "a".repeat(MAX_LEN - 7));
    assert_eq!(endless.len(), MAX_LEN);
    assert!(!problem_of(&endless).incomplete);
}

#[test]
fn deep_nesting_is_refused_where_it_starts() {
    let deep = "[".repeat(10_000) + &"]".repeat(10_000);
    for text in [
        deep.clone(),
        format!(r#"{{"ID":{deep}}}"#),
        format!(r#"{{"Headers":{deep}}}"#),
        format!(r#"{{"Headers":{{"to":{deep}}}}}"#),
        format!(r#"{{"x":{deep}}}"#),
        r#"{"Headers":"#.repeat(10_000),
    ] {
        assert!(!problem_of(&text).incomplete);
    }
}

#[test]
fn what_no_bytes_can_mend_is_noticed_before_the_end() {
    for text in [
        r#"{"ID":"b""#,
        r#"{"ID":"a","x""#,
        r#"{"ID":"a","ID""#,
        r#"{"State":6"#,
        r#"{"State":"gone""#,
        r#"{"Headers":{"to":"b","to""#,
        r#"{"Headers":["#,
        r#"{"Created":"today""#,
        r#"{"ID":"a"}x"#,
        r#"{"ID":"a",,"#,
        "tru",
        "\"ID",
        "x",
        " \u{feff}",
    ] {
        assert!(!problem_of(text).incomplete, "{text}");
    }
    let bad_byte = parse(b"{\"ID\":\"a\xff", &id("a")).unwrap_err();
    assert!(!bad_byte.incomplete);
    for text in ["", " \n", "{", "{\"", "{\"ID\"", "{\"ID\":"] {
        assert!(problem_of(text).incomplete, "{text}");
    }
    let half_a_character = parse(b"{\"ID\":\"a\xc3", &id("a")).unwrap_err();
    assert!(half_a_character.incomplete);
}

#[test]
fn absent_keys_take_defaults_or_stay() {
    let now = at("2026-11-23T12:00:00.5Z");
    let fresh = read(r#"{"ID":"a"}"#)
        .unwrap()
        .into_new(id("a"), QueueState::Hold, now);
    let expected = MessageMetadata {
        id: id("a"),
        state: QueueState::Hold,
        attempts: 0,
        max_attempts: 10,
        next_retry: Timestamp::ZERO,
        created: now,
        updated: now,
        last_error: String::new(),
        size: 0,
        priority: 5,
        headers: BTreeMap::new(),
        retry_policy_name: String::new(),
    };
    assert_eq!(fresh, expected);

    let document = parse(
        br#"{"ID":"msg-123","State":0,"Priority":1}"#,
        &id("msg-123"),
    );
    let changed = document.unwrap().over(&shown(), QueueState::Hold);
    let expected = MessageMetadata {
        state: QueueState::Hold,
        priority: 1,
        ..shown()
    };
    assert_eq!(changed, expected);
}
