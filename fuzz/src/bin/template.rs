//! The JSON of templates.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shale_model::Template;

fuzz_target!(|data: &[u8]| {
    if let Ok(template) = Template::decode(data) {
        assert_eq!(template.encode(), data);
        template.own_layers().for_each(drop);
    }
});
