//! References as people write them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shale_model::{Composition, RefName, Reference};

fuzz_target!(|text: &str| {
    if let Ok(reference) = text.parse::<Reference>() {
        assert_eq!(reference.to_string().parse().as_ref(), Ok(&reference));
        let name = &reference.name;
        for part in [name.project(), name.name(), name.tag()] {
            // Names become names of files.
            assert!(!part.is_empty() && !part.starts_with('.') && !part.contains(['/', '\0']));
        }
    }
    if let Ok(name) = text.parse::<RefName>() {
        assert_eq!(name.to_string().parse().as_ref(), Ok(&name));
    }
    if let Ok(composition) = text.parse::<Composition>() {
        assert_eq!(composition.apps.len(), text.matches('+').count());
    }
});
