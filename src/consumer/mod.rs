//! What an OAuth consumer is: its key, its secret's hash, the decision about it, and what has to be done for it.
//!
//! Everything here is pure: no I/O, no clock, no Kubernetes client, no SQL. The same functions drive the
//! controller, the sweep and the tests.
//!
//! [`decide()`] says what is to be done, [`conclude()`] says what may be claimed afterwards.

mod conclude;
mod conditions;
mod decide;
mod key;
mod observed;
mod phc;
mod reason;
mod record;
mod secret;

pub use conclude::{Again, Conclusion, Failure, Notice, Outcome, conclude};
pub use conditions::{Committed, Statement, Truth, Verdict};
pub use decide::{DecisionDraft, Draft, Effect, Plan, SecretDraft, decide, needs_proof};
pub use key::{ConsumerKey, InvalidKey};
pub use observed::{Object, Observed, SecretRef, SecretSeen};
pub use phc::{HashCost, HashMemory, Phc, PhcError};
pub use reason::{EventReason, Reason};
pub use record::{Decision, Owner, Record, Revocation, SecretOutcome, SecretSource, State, Stored};
pub use secret::{Fingerprint, FingerprintKey, SecretLimits, SecretProblem, SecretValue};
