//! What the leaves of a path template mean: unit, kind and help text, read from a plugin's `metrics.toml`.
//!
//! A template is a path whose segments may be placeholders: `/disk/{mount}/used_bytes` describes that leaf of every mount, and the
//! placeholder's name becomes a label (`mount` = `/home`). A plugin hands its `metrics.toml` over as text; the daemons parse it (feature
//! `descriptors`), so that a plugin need not link a TOML parser. The file is the only place where a metric is described: docs, checks, the
//! API and the dashboard read it.
//!
//! ```toml
//! [[metric]]
//! path = "/{mount}/used_bytes"   # below the source's own name
//! unit = "By"                    # UCUM, as in OpenTelemetry: By s 1 Cel W Hz
//! kind = "gauge"                 # gauge | counter | state | text
//! help = "Space in use on this mount."
//! ```

use std::fmt;
use std::str::FromStr;

use crate::path::{MAX_SEGMENTS, MetricPath, PathError};

/// Longest help text in bytes; it is shown beside a chart, not read as a manual.
pub const MAX_HELP_BYTES: usize = 512;
/// Longest unit in bytes; the longest UCUM unit in use here is `By/s`.
pub const MAX_UNIT_BYTES: usize = 32;
/// Most descriptors of one source. A descriptor covers all instances of a template, so a large source has some fifty.
pub const MAX_DESCRIPTORS: usize = 1_000;

/// How a value behaves over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "descriptors",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "lowercase")
)]
pub enum Kind {
    /// Goes up and down; averages make sense.
    Gauge,
    /// Only grows, but for resets to 0; shown as a rate. Named `…_total`.
    Counter,
    /// One of a few texts or booleans; changes are what matters.
    State,
    /// A name or other text that rarely changes.
    Text,
}

impl Kind {
    /// `gauge`, `counter`, `state` or `text`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Counter => "counter",
            Self::State => "state",
            Self::Text => "text",
        }
    }
}

/// Unit, kind and help of all leaves that match a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// Which leaves; below the source's name in `metrics.toml`, from the device's root once [`Descriptor::below`] was applied.
    pub template: PathTemplate,
    /// UCUM unit: `By`, `s`, `1`, `Cel`, `W`, `Hz`; empty for texts.
    pub unit: String,
    /// How the value behaves.
    pub kind: Kind,
    /// One or two sentences for whoever looks at the chart.
    pub help: String,
}

impl Descriptor {
    /// The same descriptor with its template moved below the source's name.
    ///
    /// # Errors
    /// [`PathError::TooDeep`], or an illegal name.
    pub fn below(mut self, source: &str) -> Result<Self, PathError> {
        crate::path::check_name(source)?;
        self.template
            .segments
            .insert(0, Segment::Literal(source.to_owned()));
        if self.template.segments.len() > MAX_SEGMENTS {
            return Err(PathError::TooDeep(self.template.segments.len()));
        }
        Ok(self)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Segment {
    Literal(String),
    Placeholder(String),
}

/// A path whose segments may be placeholders in braces: `/disk/{mount}/used_bytes`.
///
/// A literal segment follows RFC 6901 escaping; a whole segment of the form `{name}` (lower-case letters, digits, `_`) is a placeholder.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PathTemplate {
    segments: Vec<Segment>,
}

/// Why a template was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// The text is no path at all.
    #[error(transparent)]
    Path(#[from] PathError),
    /// A brace that is not a whole `{name}` segment.
    #[error("segment {0:?} has a brace but is not of the form {{name}} with a-z, 0-9 and _")]
    Placeholder(String),
    /// The same placeholder twice.
    #[error("placeholder {{{0}}} stands twice")]
    Repeated(String),
}

impl PathTemplate {
    /// The labels of a path that matches, in order of the placeholders: `[("mount", "/home")]`. `None` if it does not match.
    #[must_use]
    pub fn labels(&self, path: &MetricPath) -> Option<Vec<(&str, String)>> {
        let mut labels = Vec::new();
        let mut names = path.segments();
        for segment in &self.segments {
            let name = names.next()?;
            match segment {
                Segment::Literal(literal) if *literal == name => {}
                Segment::Literal(_) => return None,
                Segment::Placeholder(label) => labels.push((label.as_str(), name.into_owned())),
            }
        }
        names.next().is_none().then_some(labels)
    }

    /// Number of literal segments: of two templates that match a path, the one with more describes it.
    #[must_use]
    pub fn literals(&self) -> usize {
        self.segments
            .iter()
            .filter(|s| matches!(s, Segment::Literal(_)))
            .count()
    }
}

/// The descriptor that fits a path best: the matching one with the most literal segments, the first of equals.
#[must_use]
pub fn best_match<'a>(descriptors: &'a [Descriptor], path: &MetricPath) -> Option<&'a Descriptor> {
    let mut best: Option<&Descriptor> = None;
    for candidate in descriptors {
        if best.is_none_or(|b| candidate.template.literals() > b.template.literals())
            && candidate.template.labels(path).is_some()
        {
            best = Some(candidate);
        }
    }
    best
}

impl FromStr for PathTemplate {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let path: MetricPath = text.parse()?;
        let mut segments = Vec::new();
        for name in path.segments() {
            let segment = match name.strip_prefix('{').and_then(|n| n.strip_suffix('}')) {
                Some(label)
                    if !label.is_empty()
                        && label
                            .bytes()
                            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_') =>
                {
                    let segment = Segment::Placeholder(label.to_owned());
                    if segments.contains(&segment) {
                        return Err(TemplateError::Repeated(label.to_owned()));
                    }
                    segment
                }
                _ if name.contains(['{', '}']) => {
                    return Err(TemplateError::Placeholder(name.into_owned()));
                }
                _ => Segment::Literal(name.into_owned()),
            };
            segments.push(segment);
        }
        Ok(Self { segments })
    }
}

impl fmt::Display for PathTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        for segment in &self.segments {
            match segment {
                Segment::Literal(name) => crate::path::push_segment(&mut text, name),
                Segment::Placeholder(label) => {
                    text.push_str("/{");
                    text.push_str(label);
                    text.push('}');
                }
            }
        }
        f.write_str(&text)
    }
}

#[cfg(feature = "descriptors")]
pub use parse::{DescriptorError, DescriptorText, parse_json, parse_toml};

/// From text to checked descriptors.
#[cfg(feature = "descriptors")]
mod parse {
    use super::{
        Descriptor, Kind, MAX_DESCRIPTORS, MAX_HELP_BYTES, MAX_UNIT_BYTES, PathTemplate,
        TemplateError,
    };

    /// A descriptor as it is written in `metrics.toml`, in a C plugin's JSON and in an `about` message.
    #[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
    pub struct DescriptorText {
        /// Template text, e.g. `/{mount}/used_bytes`.
        pub path: String,
        /// UCUM unit; empty when left out.
        #[serde(default)]
        pub unit: String,
        pub kind: Kind,
        #[serde(default)]
        pub help: String,
    }

    /// Why descriptors were refused.
    #[derive(Debug, thiserror::Error)]
    #[non_exhaustive]
    pub enum DescriptorError {
        /// Not TOML, or not of the documented form; the text has line and column.
        #[error("metrics.toml: {0}")]
        Toml(#[from] toml::de::Error),
        /// Not JSON, or not of the documented form.
        #[error("descriptors: {0}")]
        Json(#[from] serde_json::Error),
        /// A bad template.
        #[error("descriptor {path:?}: {source}")]
        Template {
            path: String,
            #[source]
            source: TemplateError,
        },
        /// A unit that is too long or has spaces or control characters.
        #[error(
            "descriptor {path:?}: unit {unit:?} is not a UCUM code of at most {MAX_UNIT_BYTES} printable characters"
        )]
        Unit { path: String, unit: String },
        /// A help text over [`MAX_HELP_BYTES`].
        #[error("descriptor {path:?}: help has {size_bytes} bytes; the most is {MAX_HELP_BYTES}")]
        Help { path: String, size_bytes: usize },
        /// More than [`MAX_DESCRIPTORS`].
        #[error("{0} descriptors; the most is {MAX_DESCRIPTORS}")]
        TooMany(usize),
    }

    impl TryFrom<DescriptorText> for Descriptor {
        type Error = DescriptorError;

        fn try_from(text: DescriptorText) -> Result<Self, DescriptorError> {
            let DescriptorText {
                path,
                unit,
                kind,
                help,
            } = text;
            if unit.len() > MAX_UNIT_BYTES || !unit.bytes().all(|b| b.is_ascii_graphic()) {
                return Err(DescriptorError::Unit { path, unit });
            }
            if help.len() > MAX_HELP_BYTES {
                let size_bytes = help.len();
                return Err(DescriptorError::Help { path, size_bytes });
            }
            match path.parse::<PathTemplate>() {
                Ok(template) => Ok(Self {
                    template,
                    unit,
                    kind,
                    help,
                }),
                Err(source) => Err(DescriptorError::Template { path, source }),
            }
        }
    }

    impl From<&Descriptor> for DescriptorText {
        fn from(d: &Descriptor) -> Self {
            Self {
                path: d.template.to_string(),
                unit: d.unit.clone(),
                kind: d.kind,
                help: d.help.clone(),
            }
        }
    }

    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct MetricsToml {
        #[serde(default)]
        metric: Vec<DescriptorText>,
    }

    /// Reads `metrics.toml`.
    ///
    /// # Errors
    /// [`DescriptorError`] for the first thing that is wrong.
    pub fn parse_toml(text: &str) -> Result<Vec<Descriptor>, DescriptorError> {
        check_all(toml::from_str::<MetricsToml>(text)?.metric)
    }

    /// Reads the JSON form of a C plugin: an array of `{"path","unit","kind","help"}`.
    ///
    /// # Errors
    /// [`DescriptorError`] for the first thing that is wrong.
    pub fn parse_json(text: &str) -> Result<Vec<Descriptor>, DescriptorError> {
        check_all(serde_json::from_str(text)?)
    }

    fn check_all(texts: Vec<DescriptorText>) -> Result<Vec<Descriptor>, DescriptorError> {
        if texts.len() > MAX_DESCRIPTORS {
            return Err(DescriptorError::TooMany(texts.len()));
        }
        texts.into_iter().map(Descriptor::try_from).collect()
    }

    #[cfg(test)]
    mod tests {
        use super::super::*;

        #[test]
        fn toml_and_json_say_the_same() {
            let toml = parse_toml(
                "[[metric]]\npath = \"/{mount}/used_bytes\"\nunit = \"By\"\nkind = \"gauge\"\nhelp = \"Used.\"\n",
            )
            .unwrap();
            let json = parse_json(
                r#"[{"path":"/{mount}/used_bytes","unit":"By","kind":"gauge","help":"Used."}]"#,
            )
            .unwrap();
            assert_eq!(toml, json);
        }

        #[test]
        fn mistakes_are_named_with_their_place() {
            let error = parse_toml("[[metric]]\npath = \"/a\"\nkind = \"gague\"\n").unwrap_err();
            assert!(error.to_string().contains("line 3"), "{error}");
            assert!(parse_toml("[[metrics]]\npath = \"/a\"\nkind = \"gauge\"\n").is_err());
            let error = parse_json(r#"[{"path":"/a{b","kind":"gauge"}]"#).unwrap_err();
            assert!(error.to_string().contains("a{b"), "{error}");
            assert!(parse_json(r#"[{"path":"/a","kind":"gauge","unit":"a b"}]"#).is_err());
            assert!(parse_json(r#"[{"path":"/{x}/{x}","kind":"gauge"}]"#).is_err());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gauge(template: &str) -> Descriptor {
        Descriptor {
            template: template.parse().unwrap(),
            unit: "1".into(),
            kind: Kind::Gauge,
            help: template.into(),
        }
    }

    #[test]
    fn placeholders_become_labels() {
        let d = gauge("/{mount}/used_bytes").below("disk").unwrap();
        assert_eq!(d.template.to_string(), "/disk/{mount}/used_bytes");
        let path = "/disk/~1home/used_bytes".parse().unwrap();
        assert_eq!(
            d.template.labels(&path),
            Some(vec![("mount", "/home".to_owned())])
        );
        for other in ["/disk/used_bytes", "/disk/a/b/used_bytes", "/disk/a/free"] {
            assert_eq!(d.template.labels(&other.parse().unwrap()), None, "{other}");
        }
    }

    #[test]
    fn the_most_literal_template_wins() {
        let all = [gauge("/{a}/{b}"), gauge("/cpu/{b}"), gauge("/{a}/load")];
        let best = |p: &str| best_match(&all, &p.parse().unwrap()).map(|d| d.help.as_str());
        assert_eq!(best("/cpu/load"), Some("/cpu/{b}"));
        assert_eq!(best("/gpu/load"), Some("/{a}/load"));
        assert_eq!(best("/gpu/x"), Some("/{a}/{b}"));
        assert_eq!(best("/gpu"), None);
    }
}
