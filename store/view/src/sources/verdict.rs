//! What the answers of several sources mean together.

use shale_model::{SeamError, Trouble};

/// Why there is no good answer from any source.
#[derive(Debug, Clone)]
pub(crate) enum NotRead {
    /// Every source answers that it has no such thing.
    Gone,
    /// Those that answer have no such thing, and another does not answer, as this error says: it may be had
    /// elsewhere, under another name.
    Elsewhere(SeamError),
    /// Every source that has it sends wrong bytes.
    Wrong {
        /// What was wrong the last time.
        error: SeamError,
        /// How many answers were wrong.
        answers: u32,
    },
    /// As a source failed.
    Failed(SeamError),
}

/// The bad answers to one question.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    lacking: u32,
    wrong: u32,
    wrongness: Option<SeamError>,
    /// The last error of a source that may have what was asked for.
    unreached: Option<SeamError>,
    /// An error of the registry itself that no wait ends.
    refused: Option<SeamError>,
}

impl Verdicts {
    /// A source does not have it.
    pub(super) fn lacks(&mut self) {
        self.lacking += 1;
    }

    /// A source sent wrong bytes.
    pub(super) fn wrong(&mut self, error: SeamError) {
        self.wrong += 1;
        self.wrongness = Some(error);
    }

    /// A mirror failed, in whatever way, or the registry does not answer.
    pub(super) fn unreached(&mut self, error: SeamError) {
        // That of the registry, which comes last, says most; one that only says that it is late, least.
        self.unreached = Some(SeamError {
            trouble: Trouble::Unavailable,
            ..error
        });
    }

    /// The registry itself failed.
    pub(super) fn registry(&mut self, error: SeamError) {
        match error.trouble {
            Trouble::NotFound => self.lacks(),
            Trouble::Unavailable | Trouble::NoSpace => self.unreached(error),
            _ => self.refused = Some(error),
        }
    }

    /// Whether those are asked, too, that are left alone: no other answers, or they are wrong. What others lack may be
    /// had of them under another name.
    pub(super) fn want_everybody(&self) -> bool {
        self.wrong > 0 || self.lacking == 0 && self.refused.is_none()
    }

    /// What they mean together.
    pub(super) fn together(self) -> NotRead {
        let answers = self.wrong;
        match (self.refused, self.unreached, self.wrongness) {
            (Some(error), _, _) => NotRead::Failed(error),
            (None, Some(error), None) if self.lacking > 0 => NotRead::Elsewhere(error),
            // Bad bytes are an error once every source has sent them.
            (None, Some(error), _) => NotRead::Failed(error),
            (None, None, Some(error)) => NotRead::Wrong { error, answers },
            (None, None, None) => NotRead::Gone,
        }
    }
}

impl NotRead {
    /// As an error of the seam.
    pub(crate) fn into_seam(self, action: &str) -> SeamError {
        match self {
            NotRead::Gone => SeamError::new(Trouble::NotFound, action),
            NotRead::Wrong { error, .. } | NotRead::Elsewhere(error) | NotRead::Failed(error) => {
                error
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each source says, the registry last, and what that means.
    fn check(said: &[&str], expected: &str) {
        let mut verdicts = Verdicts::default();
        let (registry, mirrors) = said.split_last().unwrap();
        for said in mirrors {
            match *said {
                "lacks" => verdicts.lacks(),
                "wrong" => verdicts.wrong(SeamError::new(Trouble::Integrity, "bits")),
                _ => verdicts.unreached(SeamError::new(Trouble::Denied, "mirror")),
            }
        }
        let error = |trouble| SeamError::new(trouble, "registry");
        match *registry {
            "lacks" => verdicts.registry(error(Trouble::NotFound)),
            "wrong" => verdicts.wrong(error(Trouble::Integrity)),
            "denied" => verdicts.registry(error(Trouble::Denied)),
            _ => verdicts.registry(error(Trouble::Unavailable)),
        }
        let found = match verdicts.together() {
            NotRead::Gone => "gone".into(),
            NotRead::Elsewhere(error) => format!("elsewhere, {:?}", error.trouble),
            NotRead::Wrong { answers, .. } => format!("{answers} wrong"),
            NotRead::Failed(error) => format!("{}: {:?}", error.action, error.trouble),
        };
        assert_eq!(found, expected, "{said:?}");
    }

    #[test]
    fn what_sources_say_together() {
        check(&["lacks"], "gone");
        check(&["gone"], "registry: Unavailable");
        check(&["denied"], "registry: Denied");
        check(&["wrong"], "1 wrong");
        check(&["lacks", "lacks"], "gone");
        check(&["lacks", "gone"], "elsewhere, Unavailable");
        check(&["denied", "lacks"], "elsewhere, Unavailable");
        check(&["denied", "gone"], "registry: Unavailable");
        check(&["gone", "denied"], "registry: Denied");
        check(&["lacks", "denied"], "registry: Denied");
        check(&["wrong", "wrong"], "2 wrong");
        check(&["wrong", "lacks"], "1 wrong");
        // Not every source: it is waited for.
        check(&["wrong", "gone"], "registry: Unavailable");
        check(&["gone", "wrong"], "mirror: Unavailable");
        check(&["wrong", "lacks", "gone"], "registry: Unavailable");
    }
}
