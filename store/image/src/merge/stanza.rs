//! Paragraphs of `Field: value` lines with empty lines between: the files of dpkg, apt and debconf
//! (deb822(5)).

use std::borrow::Cow;

use super::columns::combine_sets;
use super::records::{Change, Combined, Malformed, Record, check_length, split_lines};

/// Splits a file into stanzas, named by the values of `keys`; the first must be there.
pub(super) fn parse<'a>(bytes: &'a [u8], keys: &[&str]) -> Result<Vec<Record<'a>>, Malformed> {
    let mut records = Vec::new();
    let mut open: Option<(usize, usize)> = None;
    let mut at = 0;
    for (number, line) in split_lines(bytes).enumerate() {
        let blank = line.iter().all(u8::is_ascii_whitespace);
        match (blank, open) {
            (false, None) => open = Some((at, number + 1)),
            (true, Some((start, first_line))) => {
                records.push(stanza(&bytes[start..at], first_line, keys)?);
                open = None;
            }
            _ => (),
        }
        at += line.len() + 1;
    }
    if let Some((start, first_line)) = open {
        records.push(stanza(&bytes[start..], first_line, keys)?);
    }
    Ok(records)
}

fn stanza<'a>(text: &'a [u8], line: usize, keys: &[&str]) -> Result<Record<'a>, Malformed> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    check_length(text, line)?;
    let mut values = vec![None; keys.len()];
    for field in fields(text) {
        let named = |key: &&str| field.name.eq_ignore_ascii_case(key.as_bytes());
        if let Some(at) = keys.iter().position(named) {
            values[at].get_or_insert(field.value());
        }
        // They come early in a stanza, and descriptions after them are long.
        if values.iter().all(Option::is_some) {
            break;
        }
    }
    if values.first().is_none_or(Option::is_none) {
        let problem = "a stanza does not say what it is about";
        return Err(Malformed { line, problem });
    }
    let values: Vec<_> = values.into_iter().map(Option::unwrap_or_default).collect();
    Ok(Record {
        key: values.join(&b' '),
        text: Cow::Borrowed(text),
    })
}

/// One field of a stanza, with the lines that continue it.
struct Field<'a> {
    /// What stands before the first colon; empty in a line that has none.
    name: &'a [u8],
    text: &'a [u8],
}

impl<'a> Field<'a> {
    fn value(&self) -> &'a [u8] {
        let rest = self.text.get(self.name.len() + 1..).unwrap_or_default();
        rest.trim_ascii()
    }
}

fn fields(text: &[u8]) -> impl Iterator<Item = Field<'_>> {
    let mut lines = split_lines(text).peekable();
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at;
        let first = lines.next()?;
        at += first.len() + 1;
        let mut end = start + first.len();
        let continues = |line: &&[u8]| line.first().is_some_and(u8::is_ascii_whitespace);
        while let Some(line) = lines.next_if(continues) {
            end = at + line.len();
            at = end + 1;
        }
        let colon = first.iter().position(|&b| b == b':').unwrap_or(0);
        let name = &first[..colon];
        let text = &text[start..end];
        Some(Field { name, text })
    })
}

/// The list of packages that use a debconf question.
const OWNERS: &[u8] = b"Owners";

/// Merges a stanza that both sides changed, field by field; `Owners` is a set.
pub(super) fn combine(change: &Change<'_>) -> Combined {
    let base: Vec<_> = change.base.into_iter().flat_map(fields).collect();
    let ours: Vec<_> = fields(change.ours).collect();
    let theirs: Vec<_> = fields(change.theirs).collect();
    let find = |fields: &[Field<'_>], name: &[u8]| -> Option<Vec<u8>> {
        let found = fields.iter().find(|field| field.name == name)?;
        Some(found.text.to_vec())
    };
    let added = theirs
        .iter()
        .filter(|field| ours.iter().all(|other| other.name != field.name));
    let mut clash = false;
    let mut merged = Vec::new();
    for field in ours.iter().chain(added) {
        let name = field.name;
        let [was, our, their] = [&base, &ours, &theirs].map(|side| find(side, name));
        merged.extend(if our == their || was == their {
            our
        } else if was == our {
            their
        } else if name == OWNERS && our.is_some() && their.is_some() {
            let value = |text: Option<Vec<u8>>| -> Vec<u8> {
                let text = text.unwrap_or_default();
                text.get(OWNERS.len() + 1..).unwrap_or_default().to_vec()
            };
            let owners = combine_sets(&value(was), &value(our), &value(their));
            // debconf writes a blank after each comma.
            let owners: Vec<_> = owners.split(|&b| b == b',').collect();
            Some([b"Owners: ", &owners.join(&b", "[..])[..]].concat())
        } else {
            clash = true;
            their
        });
    }
    let text = merged.join(&b'\n');
    if clash {
        Combined::Clash(text)
    } else {
        Combined::Fits(text)
    }
}

#[cfg(test)]
mod tests {
    use crate::merge::records::{self, Sides};
    use crate::merge::rules::Format;

    const PACKAGES: Format = Format::Stanzas(&["Package", "Architecture"]);
    const QUESTIONS: Format = Format::StanzaFields(&["Name"]);

    fn merged(format: &Format, [base, ours, theirs]: [&str; 3]) -> (String, usize) {
        let side = |text: &'static str| records::parse(format, text.as_bytes()).unwrap();
        let leak = |text: &str| -> &'static str { String::from(text).leak() };
        let sides = Sides {
            base: side(leak(base)),
            ours: side(leak(ours)),
            theirs: side(leak(theirs)),
        };
        let united = records::unite(format, sides);
        let text = records::write(format, &united.records);
        (String::from_utf8(text).unwrap(), united.clashes.len())
    }

    #[test]
    fn packages_of_both_sides_are_installed() {
        let a = "Package: a\nStatus: install ok installed\nArchitecture: amd64\nConffiles:\n /etc/a 1\n\n";
        let b = "Package: b\nArchitecture: amd64\nDescription: b\n more\n .\n more\n\n";
        let b_32 = "Package: b\nArchitecture: i386\n\n";
        let c = "Package: c\nArchitecture: all\n\n";
        let (text, clashes) = merged(&PACKAGES, [a, &[a, b, b_32].concat(), &[c, a].concat()]);
        assert_eq!((text, clashes), ([a, b, b_32, c].concat(), 0));
    }

    #[test]
    fn two_versions_of_one_package_clash() {
        let version = |v| format!("Package: a\nArchitecture: all\nVersion: {v}\n\n");
        let (text, clashes) = merged(&PACKAGES, [&version(1), &version(2), &version(3)]);
        assert_eq!((text, clashes), (version(3), 1));
    }

    #[test]
    fn a_question_of_both_sides_has_both_owners() {
        let question = |owners, value| {
            format!(
                "Name: ucf/title\nTemplate: ucf/title\nValue: {value}\nOwners: {owners}\nVariables:\n A = 1\n B = 2\n\n"
            )
        };
        let (text, clashes) = merged(
            &QUESTIONS,
            [
                &question("ucf", 1),
                &question("ucf, a", 1),
                &question("b, ucf", 2),
            ],
        );
        assert_eq!((text, clashes), (question("ucf, a, b", 2), 0));
        let (text, clashes) = merged(
            &QUESTIONS,
            [
                &question("ucf", 1),
                &question("ucf", 2),
                &question("ucf", 3),
            ],
        );
        assert_eq!((text, clashes), (question("ucf", 3), 1));
    }

    #[test]
    fn a_file_without_its_last_line_ends_is_the_same_file() {
        let stanzas = records::parse(&QUESTIONS, b"\n\nName: a\n\n \nName: b\nValue:").unwrap();
        let file = records::write(&QUESTIONS, &stanzas);
        assert_eq!(file, b"Name: a\n\nName: b\nValue:\n\n");
        let error = records::parse(&QUESTIONS, b"Name: a\n\nValue: 2\n").unwrap_err();
        assert_eq!(error.line, 3);
    }
}
