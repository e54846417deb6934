//! Templates get their names.

use shale_model::{
    Catalog, Chunker, IndexEntry, RefName, SeamError, SeamResult, Sink, Template, TemplateId,
    TemplateIndex, Trouble,
};

/// How files of new layers are cut. A difference to a base whose files were cut otherwise would hold all of them.
pub const CHUNKER: Chunker = Chunker::FastCdc;

/// Stores a template and points the reference at it, if it still points where it did.
pub fn name_template(
    sink: &dyn Sink,
    catalog: &dyn Catalog,
    name: &RefName,
    before: Option<TemplateIndex>,
    template: &Template,
) -> SeamResult<TemplateId> {
    let id = sink.put_template(&template.encode())?;
    let templates = TemplateIndex::one(template.platform.clone(), id);
    set_reference(sink, catalog, name, before, &templates)?;
    Ok(id)
}

/// Points the reference at stored templates, if it still points where it did; what it has for other platforms
/// stays. That somebody else made it point there meanwhile is success too: two pushes of the same at once want
/// the same.
pub fn set_reference(
    sink: &dyn Sink,
    catalog: &dyn Catalog,
    name: &RefName,
    before: Option<TemplateIndex>,
    templates: &TemplateIndex,
) -> SeamResult<()> {
    let mut index = before.clone().unwrap_or_else(|| templates.clone());
    for IndexEntry { platform, template } in templates.entries() {
        index = index.with(platform.clone(), *template);
    }
    let is_conflict = |error: &SeamError| error.trouble == Trouble::Conflict;
    match sink.set_ref(name, before.as_ref(), &index) {
        Err(error) if is_conflict(&error) => {
            let now = catalog.get_ref(name)?;
            let mut wanted = templates.entries().iter();
            let there = |now: TemplateIndex| {
                wanted.all(|entry| now.get(&entry.platform) == Some(entry.template))
            };
            match now.is_some_and(there) {
                true => Ok(()),
                false => Err(error),
            }
        }
        set => set,
    }
}
