//! The address of a leaf: an RFC 6901 JSON Pointer such as `/disk/~1home/used_bytes`.
//!
//! A [`MetricPath`] is valid by construction: 1 to [`MAX_SEGMENTS`] segments, each a legal name ([`check_name`]). In the text form a `/`
//! inside a name is written `~1` and a `~` is written `~0`; every other character stands for itself. Text and segments convert both ways
//! without loss, and paths order by their text, so a prefix's paths are neighbours in a sorted list.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// Longest name of a branch or leaf, in bytes of UTF-8. 128: the limit of a device id too; AWS thing names stop there.
pub const MAX_NAME_BYTES: usize = 128;
/// Deepest leaf below the root of one source's tree. Real trees use 2 to 5; the limit bounds recursion and path length.
pub const MAX_DEPTH: usize = 16;
/// Segments of a whole path: the source's name and [`MAX_DEPTH`] below it.
pub const MAX_SEGMENTS: usize = MAX_DEPTH + 1;

/// Why a name or a path was refused. The text says what is wrong with which name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// A path must start with `/`; the empty pointer addresses the whole tree, not a leaf.
    #[error("path {0:?} does not start with '/'")]
    NoLeadingSlash(String),
    /// A `~` that is not part of `~0` or `~1`.
    #[error("path {0:?} has a '~' that is not followed by 0 or 1 (write '~' as ~0 and '/' as ~1)")]
    BadEscape(String),
    /// A name of no characters.
    #[error("a name is empty (a '/' within a name is written ~1)")]
    EmptyName,
    /// A name over [`MAX_NAME_BYTES`].
    #[error("name {0:?}… is {1} bytes long; the most is {MAX_NAME_BYTES}")]
    NameTooLong(String, usize),
    /// A name with a NUL character in it.
    #[error("name {0:?} has a NUL character in it")]
    NulInName(String),
    /// More than [`MAX_SEGMENTS`] segments.
    #[error("path has {0} segments; the most is {MAX_SEGMENTS}")]
    TooDeep(usize),
}

/// Checks one name of a branch or leaf: 1 to 128 bytes of UTF-8 without NUL.
///
/// # Errors
/// [`PathError::EmptyName`], [`PathError::NameTooLong`] or [`PathError::NulInName`].
pub fn check_name(name: &str) -> Result<(), PathError> {
    if name.is_empty() {
        Err(PathError::EmptyName)
    } else if name.len() > MAX_NAME_BYTES {
        let shown = name.chars().take(16).collect();
        Err(PathError::NameTooLong(shown, name.len()))
    } else if name.bytes().any(|b| b == 0) {
        Err(PathError::NulInName(name.to_owned()))
    } else {
        Ok(())
    }
}

/// A valid path of 1 to [`MAX_SEGMENTS`] segments, held in its RFC 6901 text form.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MetricPath(Box<str>);

impl MetricPath {
    /// Builds a path from unescaped names.
    ///
    /// # Errors
    /// [`PathError`] when there is no name, too many, or an illegal one.
    pub fn from_segments<S: AsRef<str>>(
        names: impl IntoIterator<Item = S>,
    ) -> Result<Self, PathError> {
        let mut text = String::new();
        let mut count = 0;
        for name in names {
            check_name(name.as_ref())?;
            push_segment(&mut text, name.as_ref());
            count += 1;
        }
        match count {
            0 => Err(PathError::EmptyName),
            1..=MAX_SEGMENTS => Ok(Self(text.into())),
            _ => Err(PathError::TooDeep(count)),
        }
    }

    /// The text form, e.g. `/disk/~1home/used_bytes`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The names, unescaped, root first.
    pub fn segments(&self) -> impl Iterator<Item = Cow<'_, str>> {
        self.0.split('/').skip(1).map(unescape)
    }

    /// True if `prefix` addresses this leaf or a branch above it. `/disk` holds `/disk/a`, not `/diskette`.
    #[must_use]
    pub fn is_within(&self, prefix: &str) -> bool {
        is_within(&self.0, prefix)
    }

    /// For code of this crate that has already checked each name and the depth.
    pub(crate) fn from_checked(text: String) -> Self {
        Self(text.into())
    }
}

/// True if the path text `path` lies at or below `prefix`, segment by segment. The empty prefix holds everything.
#[must_use]
pub fn is_within(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || prefix.is_empty())
}

/// Appends `/` and the escaped name.
pub(crate) fn push_segment(text: &mut String, name: &str) {
    text.push('/');
    if !name.bytes().any(|b| b == b'~' || b == b'/') {
        return text.push_str(name);
    }
    for c in name.chars() {
        match c {
            '~' => text.push_str("~0"),
            '/' => text.push_str("~1"),
            c => text.push(c),
        }
    }
}

/// The name that a path's segment stands for.
#[must_use]
pub fn unescape(segment: &str) -> Cow<'_, str> {
    if segment.contains('~') {
        // ~1 before ~0, as RFC 6901 section 4 asks: "~01" is the name "~1".
        Cow::Owned(segment.replace("~1", "/").replace("~0", "~"))
    } else {
        Cow::Borrowed(segment)
    }
}

impl FromStr for MetricPath {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        let Some(body) = text.strip_prefix('/') else {
            return Err(PathError::NoLeadingSlash(text.to_owned()));
        };
        let mut count = 0;
        for segment in body.split('/') {
            let mut tail = segment.split('~');
            tail.next();
            if tail.any(|rest| !rest.starts_with(['0', '1'])) {
                return Err(PathError::BadEscape(text.to_owned()));
            }
            check_name(&unescape(segment))?;
            count += 1;
        }
        if count > MAX_SEGMENTS {
            return Err(PathError::TooDeep(count));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for MetricPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for MetricPath {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for MetricPath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slash_and_tilde_in_names_survive_both_ways() {
        let path = MetricPath::from_segments(["disk", "/home", "a~b", "~1"]).unwrap();
        assert_eq!(path.as_str(), "/disk/~1home/a~0b/~01");
        assert_eq!(
            path.segments().collect::<Vec<_>>(),
            ["disk", "/home", "a~b", "~1"]
        );
        assert_eq!(path.as_str().parse::<MetricPath>().unwrap(), path);
    }

    #[test]
    fn malformed_paths_say_what_is_wrong() {
        let parse = |s: &str| s.parse::<MetricPath>().unwrap_err();
        assert!(matches!(parse(""), PathError::NoLeadingSlash(_)));
        assert!(matches!(parse("cpu"), PathError::NoLeadingSlash(_)));
        assert!(matches!(parse("/"), PathError::EmptyName));
        assert!(matches!(parse("/a//b"), PathError::EmptyName));
        assert!(matches!(parse("/a~"), PathError::BadEscape(_)));
        assert!(matches!(parse("/a~2"), PathError::BadEscape(_)));
        assert!(matches!(parse("/a~~0"), PathError::BadEscape(_)));
        assert!(matches!(parse("/a\0"), PathError::NulInName(_)));
        assert!(matches!(parse(&"/a".repeat(18)), PathError::TooDeep(18)));
        assert!(matches!(
            parse(&format!("/{}", "é".repeat(65))),
            PathError::NameTooLong(_, 130)
        ));
    }

    #[test]
    fn prefix_goes_by_segments() {
        let path: MetricPath = "/disk/a/used_bytes".parse().unwrap();
        for inside in ["", "/disk", "/disk/a", "/disk/a/used_bytes"] {
            assert!(path.is_within(inside), "{inside}");
        }
        for outside in ["/dis", "/disk/", "/disk/b", "/disk/a/used_bytes/x"] {
            assert!(!path.is_within(outside), "{outside}");
        }
    }
}
