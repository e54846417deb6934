//! The JSON of what a tag names.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shale_model::{Platform, TemplateIndex};

fuzz_target!(|data: &[u8]| {
    let Ok(index) = TemplateIndex::decode(data) else {
        return;
    };
    assert_eq!(index.encode(), data);
    for entry in index.entries() {
        assert_eq!(index.get(&entry.platform), Some(entry.template));
        let same = index.clone().with(entry.platform.clone(), entry.template);
        assert_eq!(same, index);
    }
    let _ = index.get(&Platform::default());
});
