//! Why a row that is pending was not sent yet.
//!
//! Whoever has a row in hand asks for the one reason that counts: the first of this list that holds. Admission asks all of them, once;
//! departure asks again for those that may have come up while the row stood in its queue. ARCHITECTURE.md prints the list.

/// See the module. In the order in which they win.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wait {
    /// Found again by whoever has the lane.
    Elsewhere,
    /// Found again behind the lanes' lag.
    LaneBehind,
    /// Found again by starts, reloads and sweeps.
    NoRoute,
    /// Found again when a reload opens the route.
    RoutePaused,
    /// Found again behind the topic's lag.
    TopicPaused,
    /// As above.
    TopicBehind,
    /// Found again behind the destination's lag.
    DestinationPaused,
    /// As above.
    DestinationTried,
    /// As above.
    DestinationBehind,
    /// As above.
    DestinationSlow,
    /// As above.
    EarlierCommit,
    /// Found again by the walk over rows that are due.
    UnknownHolder,
    /// As above.
    EarlierRetry,
    /// Parked behind its holder.
    KeyHeld,
    /// In its queue.
    RouteLimit,
}

impl Wait {
    /// All of them.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 15] = [
        Self::Elsewhere,
        Self::LaneBehind,
        Self::NoRoute,
        Self::RoutePaused,
        Self::TopicPaused,
        Self::TopicBehind,
        Self::DestinationPaused,
        Self::DestinationTried,
        Self::DestinationBehind,
        Self::DestinationSlow,
        Self::EarlierCommit,
        Self::UnknownHolder,
        Self::EarlierRetry,
        Self::KeyHeld,
        Self::RouteLimit,
    ];

    /// Whether the row's topic or destination takes nothing of its kind now, so that reading more of them is of no use.
    pub(crate) fn is_of_its_address(self) -> bool {
        match self {
            Self::TopicPaused
            | Self::TopicBehind
            | Self::DestinationPaused
            | Self::DestinationTried
            | Self::DestinationBehind
            | Self::DestinationSlow
            | Self::EarlierCommit => true,
            Self::Elsewhere
            | Self::LaneBehind
            | Self::NoRoute
            | Self::RoutePaused
            | Self::UnknownHolder
            | Self::EarlierRetry
            | Self::KeyHeld
            | Self::RouteLimit => false,
        }
    }

    /// Whether its topic is not sent at all now, by the configuration.
    pub(crate) fn is_of_its_route(self) -> bool {
        matches!(self, Self::NoRoute | Self::RoutePaused)
    }

    /// For machines.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Elsewhere => "elsewhere",
            Self::LaneBehind => "lane_behind",
            Self::NoRoute => "no_route",
            Self::RoutePaused => "route_paused",
            Self::TopicPaused => "topic_paused",
            Self::TopicBehind => "topic_behind",
            Self::DestinationPaused => "destination_paused",
            Self::DestinationTried => "destination_tried",
            Self::DestinationBehind => "destination_behind",
            Self::DestinationSlow => "destination_slow",
            Self::EarlierCommit => "earlier_commit",
            Self::UnknownHolder => "unknown_holder",
            Self::EarlierRetry => "earlier_retry",
            Self::KeyHeld => "key_held",
            Self::RouteLimit => "route_limit",
        }
    }

    /// For people: why this message was not sent yet.
    pub(crate) fn sentence(self) -> &'static str {
        match self {
            Self::Elsewhere => "its lane belongs to another instance, or is being handed over",
            Self::LaneBehind => "its lane was taken over and is read from the beginning: earlier rows come first",
            Self::NoRoute => "no route matches its topic",
            Self::RoutePaused => "its route is paused in the configuration",
            Self::TopicPaused => "an operator has paused its topic",
            Self::TopicBehind => "its topic was resumed, and earlier rows of it come first",
            Self::DestinationPaused => "its destination takes no messages now",
            Self::DestinationTried => "its destination is being tried with a few messages",
            Self::DestinationBehind => "earlier rows of its destination were left behind, and come first",
            Self::DestinationSlow => "its destination does not keep up and has its share of the window",
            Self::EarlierCommit => "its route sends in commit order, and an earlier number may still commit",
            Self::UnknownHolder => "another instance has tried it, and who holds its key is being read",
            Self::EarlierRetry => "an earlier message of its key is to be tried again first",
            Self::KeyHeld => "an earlier message of its key retries, or has failed and waits for a decision",
            Self::RouteLimit => "its route has sent as much as its limits allow",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_architecture_prints_this_list() {
        let printed = include_str!("../../../ARCHITECTURE.md");
        let mut rest = printed;
        for wait in Wait::ALL {
            let row = format!("| {} |", wait.sentence());
            let at = rest.find(&row);
            let at = at.unwrap_or_else(|| panic!("{wait:?} does not stand there, or not in its place: {row}"));
            rest = &rest[at + row.len()..];
        }
        assert!(Wait::ALL.is_sorted());
    }
}
