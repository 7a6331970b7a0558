//! Why a test did not pass.

use std::fmt;
use std::panic::Location;

/// What went wrong, and the line of the test or of the harness where it showed.
pub struct Failure {
    message: String,
    place: &'static Location<'static>,
}

/// A step of a test.
pub type Result<T = ()> = std::result::Result<T, Failure>;

impl Failure {
    /// A failure at the caller's line.
    #[track_caller]
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), place: Location::caller() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n    at {}", self.message, self.place)
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// `Failure` is no `std::error::Error` itself, so that every such error can become one with `?`.
impl<E: std::error::Error> From<E> for Failure {
    #[track_caller]
    fn from(error: E) -> Self {
        Self::new(error.to_string())
    }
}

/// Ends the step with a formatted [`Failure`].
#[macro_export]
macro_rules! fail {
    ($($message:tt)*) => {
        return Err($crate::Failure::new(format!($($message)*)))
    };
}

/// Ends the step with a [`Failure`] unless the condition holds.
#[macro_export]
macro_rules! check {
    ($condition:expr, $($message:tt)*) => {
        if !$condition {
            $crate::fail!($($message)*);
        }
    };
}

/// Ends the step with a [`Failure`] that shows both sides unless they are equal.
#[macro_export]
macro_rules! check_equal {
    ($left:expr, $right:expr $(, $($message:tt)*)?) => {
        match (&$left, &$right) {
            (left, right) if left == right => {}
            (left, right) => {
                #[allow(unused_mut, unused_assignments)]
                let mut what = String::from(concat!(stringify!($left), " is not ", stringify!($right)));
                $( what = format!($($message)*); )?
                $crate::fail!("{what}:\n  {left:?}\n  {right:?}");
            }
        }
    };
}
