//! Names and manifests of a registry.

use shale_model::limits::{MAX_LAYER_ROOT_BYTES, MAX_TEMPLATE_BYTES};
use shale_model::{
    Catalog, LayerId, RefName, SeamError, SeamResult, TemplateId, TemplateIndex, Trouble,
};
use shale_wire::limits::{MAX_REF_PAGE, MAX_REF_PAGE_BYTES};
use shale_wire::{Code, RefPage, route};

use crate::call::{Call, Why, WrongAnswer};
use crate::remote::RemoteRegistry;

/// Most references of a listing: it is held in memory, and a registry that never ends is not believed.
const MAX_LISTED_REFS: usize = 1_000_000;

impl Catalog for RemoteRegistry {
    fn get_ref(&self, name: &RefName) -> SeamResult<Option<TemplateIndex>> {
        let call = Call::get(route::reference(name), format!("read reference {name}"));
        let call = call.max_answer(MAX_TEMPLATE_BYTES as u64);
        let answer = match self.wait(self.transport().ask(&call)) {
            Ok(answer) => answer,
            Err(no) => match &no.why {
                Why::Problem(problem) if problem.code == Code::NotFound => return Ok(None),
                _ => return Err(no.into_seam(&call.action, self.address())),
            },
        };
        let index = TemplateIndex::decode(&answer.body);
        index
            .map(Some)
            .map_err(|error| self.wrong(&call.action, error))
    }

    fn list_refs(&self, project: &str) -> SeamResult<Vec<(RefName, TemplateIndex)>> {
        let action = "list references";
        // Checked here, so that it needs no escaping in a URL.
        let mut query = format!("{}?limit={MAX_REF_PAGE}", route::REFS);
        if !project.is_empty() {
            let invalid = |error| SeamError::caused(Trouble::Invalid, action, error);
            RefName::new(project, "name", "tag").map_err(invalid)?;
            query.push_str(&format!("&project={project}"));
        }
        let mut refs: Vec<(RefName, TemplateIndex)> = Vec::new();
        let mut path = query.clone();
        loop {
            let call = Call::get(path, action).max_answer(MAX_REF_PAGE_BYTES as u64);
            let answer = self.wait(self.transport().answer(&call))?;
            let page: RefPage = self.json(action, &answer.body)?;
            self.append(&mut refs, &page, project)?;
            match (page.next, page.refs.is_empty()) {
                (Some(_), false) if refs.len() < MAX_LISTED_REFS => {}
                (Some(_), _) => return Err(self.untrue("its listing does not end")),
                (None, _) => return Ok(refs),
            }
            // The last name is checked, unlike the text that came as `next`; `/` and `:` may stand in
            // a query (RFC 3986, 3.4).
            path = match refs.last() {
                Some((name, _)) => format!("{query}&after={name}"),
                None => query.clone(),
            };
        }
    }

    fn template(&self, id: TemplateId) -> SeamResult<Vec<u8>> {
        let call = Call::get(route::template(id), format!("read template {id}"));
        let call = call.max_answer(MAX_TEMPLATE_BYTES as u64);
        let json = self.wait(self.transport().answer(&call))?.body;
        match TemplateId::of(&json) == id {
            true => Ok(json),
            false => Err(self.untrue(&format!("what it sent is not template {id}"))),
        }
    }

    fn layer(&self, id: LayerId) -> SeamResult<Vec<u8>> {
        let call = Call::get(route::layer(id), format!("read layer {id}"));
        let call = call.max_answer(MAX_LAYER_ROOT_BYTES as u64);
        let root = self.wait(self.transport().answer(&call))?.body;
        match LayerId::of(&root) == id {
            true => Ok(root),
            false => Err(self.untrue(&format!("what it sent is not layer {id}"))),
        }
    }
}

impl RemoteRegistry {
    /// Appends a page, whose references must follow in order.
    fn append(
        &self,
        refs: &mut Vec<(RefName, TemplateIndex)>,
        page: &RefPage,
        project: &str,
    ) -> SeamResult<()> {
        for entry in &page.refs {
            let name: Result<RefName, _> = entry.name.parse();
            let name = name.map_err(|error| self.wrong("list references", error))?;
            // Reading JSON into the type checks less than the type's own decoder.
            let index = TemplateIndex::decode(&entry.index.encode());
            let index = index.map_err(|error| self.wrong("list references", error))?;
            let follows = refs.last().is_none_or(|(last, _)| *last < name);
            if !follows || (!project.is_empty() && name.project() != project) {
                return Err(self.untrue("its listing is not in order"));
            }
            refs.push((name, index));
        }
        Ok(())
    }

    fn untrue(&self, what: &str) -> SeamError {
        let action = format!("ask {}", self.address());
        SeamError::caused(Trouble::Integrity, action, WrongAnswer::saying(what))
    }
}
