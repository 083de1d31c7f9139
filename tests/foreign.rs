//! Tables that are not outboxd's own, as other frameworks make them: relayed, failed, retried and discarded with nothing of theirs changed
//! but how their rows stand.

mod adopt;
mod changes;
mod fence;
mod framework;
mod frameworks;
mod identities;
mod kills;
mod mistakes;
mod more_frameworks;
mod order;
mod pace;
mod phoenix;
mod scene;
mod shapes;
mod swallowed;
