//! Two resources that quarrel, so that the playbook layer is seen to notice.

use keyward::change::Claim;
use keyward::error::Result;
use keyward::facts::Facts;
use keyward::host::Probe;
use keyward::resource::{Kind, Planned, Resource, Section};
use keyward::types::AbsPath;

/// Both claim the path that they are given.
pub const TWO: &[Kind] = &[Kind::of::<First>(), Kind::of::<Second>()];
/// They read one property differently.
pub const QUARREL: &[Kind] = &[Kind::of::<First>(), Kind::of::<Third>()];

#[derive(serde::Deserialize, schemars::JsonSchema)]
pub struct Wanted {
    path: AbsPath,
}

#[derive(serde::Deserialize, schemars::JsonSchema)]
pub struct Other {
    #[allow(dead_code)]
    path: bool,
}

macro_rules! resource {
    ($type:ident, $name:literal, $section:literal, $desired:ty, $claims:expr) => {
        pub struct $type;
        impl Resource for $type {
            const NAME: &'static str = $name;
            const SUMMARY: &'static str = "for a test";
            const EXAMPLE: &'static str = "";
            const SECTION: Section = Section::Map($section);
            type Desired = $desired;
            type Observed = ();
            fn claims(desired: &$desired) -> Vec<Claim> {
                let claims: fn(&$desired) -> Vec<Claim> = $claims;
                claims(desired)
            }
            fn observe(_: &$desired, _: &Facts, _: &dyn Probe) -> Result<()> {
                Ok(())
            }
            fn plan(_: &$desired, _: &Facts, _: &()) -> Result<Planned> {
                Ok(Planned::default())
            }
        }
    };
}

resource!(First, "first", "first", Wanted, |desired| vec![Claim::Path(desired.path.clone())]);
resource!(Second, "second", "second", Wanted, |desired| vec![Claim::Path(desired.path.clone())]);
resource!(Third, "third", "first", Other, |_| Vec::new());
