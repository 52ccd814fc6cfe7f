//! What kind of failure a LastError tells of: a bounded set, for metrics.

/// A kind of failure. Most are the subjects of enhanced status codes: RFC 3463, section 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorClass {
    /// There is no error.
    None,
    /// X.1: an address.
    Address,
    /// X.2: a mailbox.
    Mailbox,
    /// X.3: the mail system.
    System,
    /// X.4: network and routing.
    Network,
    /// X.5: the protocol.
    Protocol,
    /// X.6: content and media.
    Content,
    /// X.7: security and policy.
    Policy,
    /// No code, and a text about time that ran out.
    Timeout,
    /// No code, and a text about a connection.
    Connection,
    /// No code, and a text about names and their resolution.
    Dns,
    /// No code, and a text about TLS.
    Tls,
    /// Anything else.
    Other,
}

/// Words of texts without an enhanced status code, in small letters; the first that fits.
const WORDS: &[(&str, ErrorClass)] = &[
    ("timed out", ErrorClass::Timeout),
    ("timeout", ErrorClass::Timeout),
    ("deadline", ErrorClass::Timeout),
    ("certificate", ErrorClass::Tls),
    ("tls", ErrorClass::Tls),
    ("no such host", ErrorClass::Dns),
    ("lookup", ErrorClass::Dns),
    ("dns", ErrorClass::Dns),
    ("resolve", ErrorClass::Dns),
    ("connect", ErrorClass::Connection),
    ("refused", ErrorClass::Connection),
    ("unreachable", ErrorClass::Connection),
    ("reset by", ErrorClass::Connection),
    ("broken pipe", ErrorClass::Connection),
    ("eof", ErrorClass::Connection),
];

impl ErrorClass {
    /// The class of a LastError.
    ///
    /// ```
    /// use retryspoolfs::model::ErrorClass;
    /// let class = ErrorClass::of("451 4.7.1 Greylisted, try again later");
    /// assert_eq!((class, class.name()), (ErrorClass::Policy, "policy"));
    /// ```
    pub fn of(text: &str) -> ErrorClass {
        if text.is_empty() {
            return ErrorClass::None;
        }
        let mut numbers = text.split(|c: char| !c.is_ascii_digit() && c != '.');
        if let Some(subject) = numbers.find_map(subject) {
            return subject;
        }
        let text = text.to_ascii_lowercase();
        let found = WORDS.iter().find(|(word, _)| text.contains(word));
        found.map_or(ErrorClass::Other, |(_, class)| *class)
    }

    /// Its name, as a metric's label has it.
    pub fn name(self) -> &'static str {
        match self {
            ErrorClass::None => "none",
            ErrorClass::Address => "address",
            ErrorClass::Mailbox => "mailbox",
            ErrorClass::System => "system",
            ErrorClass::Network => "network",
            ErrorClass::Protocol => "protocol",
            ErrorClass::Content => "content",
            ErrorClass::Policy => "policy",
            ErrorClass::Timeout => "timeout",
            ErrorClass::Connection => "connection",
            ErrorClass::Dns => "dns",
            ErrorClass::Tls => "tls",
            ErrorClass::Other => "other",
        }
    }
}

/// The subject of an enhanced status code, `4.7.1`.
fn subject(number: &str) -> Option<ErrorClass> {
    let mut parts = number.trim_end_matches('.').split('.');
    let (class, subject, detail) = (parts.next()?, parts.next()?, parts.next()?);
    let number = |part: &str| part.len() <= 3 && part.parse::<u16>().is_ok();
    if !matches!(class, "2" | "4" | "5") || !number(detail) || parts.next().is_some() {
        return None;
    }
    Some(match subject {
        "1" => ErrorClass::Address,
        "2" => ErrorClass::Mailbox,
        "3" => ErrorClass::System,
        "4" => ErrorClass::Network,
        "5" => ErrorClass::Protocol,
        "6" => ErrorClass::Content,
        "7" => ErrorClass::Policy,
        "0" => ErrorClass::Other,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_classes() {
        use ErrorClass::*;
        for (text, class) in [
            ("", None),
            ("550 5.1.1 User unknown in virtual mailbox table", Address),
            ("452 4.2.2 Mailbox full", Mailbox),
            ("421 4.4.2 mx1.example.org Error: timeout exceeded", Network),
            ("554-5.7.1: blocked", Policy),
            ("554 (5.7.1) blocked", Policy),
            ("dial tcp 192.0.2.25:25: i/o timeout", Timeout),
            (
                "connect to mx[192.0.2.25]:25: Connection refused",
                Connection,
            ),
            ("lookup mx.example.net: no such host", Dns),
            ("x509: certificate has expired", Tls),
            ("250", Other),
            ("4.9.1", Other),
            ("5.7.1.2", Other),
            ("?", Other),
        ] {
            assert_eq!(ErrorClass::of(text), class, "{text}");
        }
    }
}
