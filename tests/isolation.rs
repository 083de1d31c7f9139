//! P3 and P4, trouble stays where it is: a missing topic, a stopped transport, a poisoned key and a held key hold up
//! nothing else. The rates side by side are measured by `dev/chaos --holds`.

use crate::support::isolation::Ward;
use crate::support::together;

#[tokio::test]
async fn trouble_in_four_places_holds_up_nothing_else() {
    let _guard = together().await;
    let ward = Ward::new().await;
    // Every healthy row passes while every troubled one waits: asserted within.
    let (rates, verdict) = ward.rates(1, 10_000).await;
    println!("{rates}; {verdict}");
    verdict.assert_nothing_lost();
    verdict.assert_ordered();
    assert_eq!(verdict.failed, 0, "{verdict}");
}
