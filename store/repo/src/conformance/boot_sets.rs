//! What every place does with traces of boots.

use shale_model::{
    BootSet, ChunkId, MAX_TRACE_CHUNKS, MAX_TRACES, PACK_TRAILER_BYTES, PackContents, PackTrailer,
    Template, TemplateId, Trouble, decode_frame,
};

use super::{Sample, Store, fails, wait_for};

pub(super) fn check_boot_sets(store: &Store) {
    let (one, other) = (
        Sample::new("demo/booted", 10),
        Sample::new("demo/other", 11),
    );
    one.push(&*store.sink).expect("a push");
    other.push(&*store.sink).expect("another push");
    let template = TemplateId::of(&one.template);
    let set = |id| wait_for(store.boots.boot_set(id)).expect("an answer");
    let add = |chunks: &[ChunkId]| wait_for(store.boots.add_trace(template, chunks));
    assert_eq!(set(template), None);
    assert_eq!(set(TemplateId::of(b"none")), None);
    let none = wait_for(
        store
            .boots
            .add_trace(TemplateId::of(b"none"), &one.chunk_ids()),
    );
    fails(none, Trouble::NotFound);
    fails(
        add(&vec![ChunkId::of(b"x"); MAX_TRACE_CHUNKS + 1]),
        Trouble::Invalid,
    );

    // Chunks of others are nobody's business.
    let (own, foreign) = (one.chunk_ids(), other.chunk_ids());
    add(&foreign[..2]).expect("a trace of nothing");
    assert_eq!(set(template), None);
    add(&[own[2], foreign[0], own[0], own[2]]).expect("a trace");
    let first = set(template).expect("a boot set");
    assert_eq!(first.template, template);
    assert_eq!(read(store, &first), [own[2], own[0]]);
    let located = wait_for(store.fetch.locate(&own)).expect("locations");
    assert!(located.iter().flatten().all(|at| at.pack != first.pack));

    // The nearest template lends its own; one without a common layer does not.
    let mut near = Template::decode(&one.template).expect("a template");
    near.machine.command_line = "quiet".into();
    let near = store.sink.put_template(&near.encode()).expect("a template");
    assert_eq!(set(near), Some(first));
    assert_eq!(set(TemplateId::of(&other.template)), None);

    // What no boot reads any more is left out, and what boots read now comes in.
    for _ in 0..MAX_TRACES {
        add(&[own[1], own[3]]).expect("a trace");
    }
    let last = set(template).expect("a boot set");
    assert_eq!(read(store, &last), [own[1], own[3]]);
    add(&[own[1], own[3]]).expect("a trace");
    assert_eq!(set(template), Some(last), "nothing new");
}

/// The chunks of a boot set in their order, after hashing them.
fn read(store: &Store, set: &BootSet) -> Vec<ChunkId> {
    let fetch = |offset, len| wait_for(store.fetch.read(set.pack, offset, len)).expect("a part");
    let tail = fetch(set.footer_offset, set.pack_bytes - set.footer_offset);
    let (footer, trailer) = tail.split_at(tail.len() - PACK_TRAILER_BYTES);
    let trailer = PackTrailer::decode(trailer, set.pack_bytes).expect("a trailer");
    let contents = PackContents::decode(&trailer, footer).expect("a footer");
    let chunks = contents.chunks().iter().map(|chunk| {
        let frame = contents.frames()[chunk.frame as usize];
        let stored = fetch(frame.offset, frame.stored.into());
        let plain = decode_frame(frame.codec, stored, frame.plain).expect("plain bytes");
        let (start, len) = (chunk.offset as usize, chunk.len as usize);
        assert_eq!(ChunkId::of(&plain[start..start + len]), chunk.id);
        chunk.id
    });
    chunks.collect()
}
