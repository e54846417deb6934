//! The merge of one line of fields with colons between, field by field.

use super::records::{Change, Combined};
use super::rules::Column;

/// Merges a line that both sides changed.
pub(super) fn combine(columns: &[Column], change: &Change<'_>) -> Combined {
    let split = |line: &'_ [u8]| -> Vec<Vec<u8>> {
        line.split(|&b| b == b':').map(<[u8]>::to_vec).collect()
    };
    let base = change.base.map(split);
    let (ours, theirs) = (split(change.ours), split(change.theirs));
    let mut clash = ours.len() != theirs.len() || ours.len() != columns.len();
    if clash {
        return Combined::Clash(change.theirs.to_vec());
    }
    let mut merged = Vec::with_capacity(columns.len());
    for (at, column) in columns.iter().enumerate() {
        let was = base.as_ref().and_then(|fields| fields.get(at));
        let (ours, theirs) = (&ours[at], &theirs[at]);
        merged.push(if ours == theirs || was == Some(theirs) {
            ours.clone()
        } else if was == Some(ours) {
            theirs.clone()
        } else {
            clash |= *column == Column::Exact;
            match column {
                Column::Set => combine_sets(was.map_or(&[], |list| &list[..]), ours, theirs),
                Column::Exact | Column::Latest => theirs.clone(),
            }
        });
    }
    let line = merged.join(&b':');
    if clash {
        Combined::Clash(line)
    } else {
        Combined::Fits(line)
    }
}

/// Merges two lists with commas between, relative to `base`.
pub(super) fn combine_sets(base: &[u8], ours: &[u8], theirs: &[u8]) -> Vec<u8> {
    let list = |text: &'_ [u8]| -> Vec<Vec<u8>> {
        text.split(|&b| b == b',')
            .map(|item| item.trim_ascii().to_vec())
            .filter(|item| !item.is_empty())
            .collect()
    };
    let set = |items: &[Vec<u8>]| -> std::collections::HashSet<Vec<u8>> {
        items.iter().cloned().collect()
    };
    let (base, mut ours, theirs) = (set(&list(base)), list(ours), list(theirs));
    let (had, wanted) = (set(&ours), set(&theirs));
    ours.retain(|item| wanted.contains(item) || !base.contains(item));
    let added = theirs
        .into_iter()
        .filter(|item| !had.contains(item) && !base.contains(item));
    ours.extend(added);
    ours.join(&b',')
}
