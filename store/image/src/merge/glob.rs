//! Patterns of paths.

use shale_model::TreePath;

/// Whether `path` has the form of `pattern`, a path in which `**` stands for any number of names and one
/// `*` in a name for any bytes.
pub(crate) fn path_matches(pattern: &str, path: &TreePath) -> bool {
    matches(Some(pattern.as_bytes()), Some(path.as_bytes()))
}

/// Matches component by component; `None` is the end.
fn matches(pattern: Option<&[u8]>, path: Option<&[u8]>) -> bool {
    let Some(pattern) = pattern else {
        return path.is_none();
    };
    let (first, rest) = split_component(pattern);
    let Some(path) = path else {
        return false;
    };
    let (name, below) = split_component(path);
    if first == b"**" {
        let ends_here = rest.is_none() || matches(rest, Some(path));
        return ends_here || (below.is_some() && matches(Some(pattern), below));
    }
    name_matches(first, name) && matches(rest, below)
}

fn split_component(path: &[u8]) -> (&[u8], Option<&[u8]>) {
    match path.iter().position(|&b| b == b'/') {
        Some(slash) => (&path[..slash], Some(&path[slash + 1..])),
        None => (path, None),
    }
}

/// Matches a name with a pattern of at most one `*`.
fn name_matches(pattern: &[u8], name: &[u8]) -> bool {
    match pattern.iter().position(|&b| b == b'*') {
        None => pattern == name,
        Some(star) => {
            let (head, tail) = (&pattern[..star], &pattern[star + 1..]);
            name.len() >= head.len() + tail.len() && name.starts_with(head) && name.ends_with(tail)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_bytes_and_names() {
        let cases = [
            ("a/b", "a/b", true),
            ("a/b", "a/b/c", false),
            ("a/*", "a/b", true),
            ("a/*", "a/b/c", false),
            ("a/*.c", "a/.c", true),
            ("a/x*c", "a/xc", true),
            ("a/xc*c", "a/xc", false),
            ("a/**", "a/b/c", true),
            ("a/**", "a", false),
            ("**/b", "b", true),
            ("**/b", "a/a/b", true),
            ("**/b", "a/b/c", false),
            ("**/b/**", "a/b/c/d", true),
        ];
        for (pattern, path, expected) in cases {
            let path = TreePath::new(path.as_bytes()).unwrap();
            assert_eq!(path_matches(pattern, &path), expected, "{pattern} {path}");
        }
    }
}
