//! Several readings at once: all values, or all that is wrong with them, so that a caller learns of every mistake in one answer.

use crate::api::problem::Problem;

/// A tuple of readings.
pub(in crate::api) trait All {
    /// The tuple of their values.
    type Values;

    fn all(self) -> Result<Self::Values, Problem>;
}

/// All values.
///
/// # Errors
/// What is wrong with any of them.
pub(in crate::api) fn all<T: All>(readings: T) -> Result<T::Values, Problem> {
    readings.all()
}

/// Likewise, of any number of one type.
///
/// # Errors
/// As [`all`].
pub(in crate::api) fn each<T>(
    readings: impl IntoIterator<Item = Result<T, Problem>>,
) -> Result<Vec<T>, Problem> {
    let mut all = Ok(Vec::new());
    for reading in readings {
        all = both(all, reading).map(|(mut values, value)| {
            values.push(value);
            values
        });
    }
    all
}

fn both<A, B>(a: Result<A, Problem>, b: Result<B, Problem>) -> Result<(A, B), Problem> {
    match (a, b) {
        (Ok(a), Ok(b)) => Ok((a, b)),
        (Err(mut wrong), Err(too)) => {
            wrong.add(too);
            Err(wrong)
        }
        (Err(wrong), _) | (_, Err(wrong)) => Err(wrong),
    }
}

/// `pairs` is how the values stand after each is taken together with all before it.
macro_rules! tuple {
    ($first:ident: $First:ident, $($next:ident: $Next:ident),+ => $pairs:pat) => {
        impl<$First, $($Next),+> All for (Result<$First, Problem>, $(Result<$Next, Problem>),+) {
            type Values = ($First, $($Next),+);

            fn all(self) -> Result<Self::Values, Problem> {
                let ($first, $($next),+) = self;
                let all = $first;
                $(let all = both(all, $next);)+
                all.map(|$pairs| ($first, $($next),+))
            }
        }
    };
}

tuple!(a: A, b: B => (a, b));
tuple!(a: A, b: B, c: C => ((a, b), c));
tuple!(a: A, b: B, c: C, d: D => (((a, b), c), d));
tuple!(a: A, b: B, c: C, d: D, e: E => ((((a, b), c), d), e));

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong<T>(name: &str) -> Result<T, Problem> {
        Err(Problem::parameter(name, "is wrong"))
    }

    fn named<T>(read: Result<T, Problem>) -> Vec<String> {
        let problem = read.err().expect("something wrong");
        problem.errors().map(|(name, _)| name).collect()
    }

    #[test]
    fn values_come_in_their_order() {
        assert_eq!(all((Ok(1), Ok("b"), Ok('c'))), Ok((1, "b", 'c')));
        assert_eq!(
            all((Ok(1), Ok(2), Ok(3), Ok(4), Ok(5))),
            Ok((1, 2, 3, 4, 5))
        );
        assert_eq!(each([Ok(1), Ok(2)]), Ok(vec![1, 2]));
    }

    #[test]
    fn all_that_is_wrong_is_said_in_its_order() {
        let some: Result<((), i32, (), i32), _> = all((wrong("a"), Ok(1), wrong("c"), Ok(2)));
        assert_eq!(named(some), ["a", "c"]);
        let list = each([Ok(1), wrong("a"), Ok(2), wrong("b"), wrong("a")]);
        assert_eq!(named(all((list, wrong::<()>("z")))), ["a", "b", "a", "z"]);
    }

    #[test]
    fn one_that_is_wrong_looks_as_it_did() {
        let alone = wrong::<()>("b");
        assert_eq!(all((Ok(1), wrong::<()>("b"))).err(), alone.err());
    }

    #[test]
    fn of_very_much_that_is_wrong_some_is_said() {
        let list = each((0..99).map(|n| wrong::<()>(&n.to_string())));
        let names = named(all((wrong::<()>("a"), list)));
        assert_eq!((names.len(), &*names[0], &*names[19]), (20, "a", "18"));
    }
}
