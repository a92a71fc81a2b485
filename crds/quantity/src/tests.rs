use proptest::prelude::*;

use super::*;

#[test]
fn every_suffix_has_its_factor() {
    for (given, expected) in [
        ("0", 0),
        ("1", 1),
        ("+7", 7),
        ("1k", 1_000),
        ("1M", 1_000_000),
        ("1G", 1_000_000_000),
        ("2T", 2_000_000_000_000),
        ("2P", 2_000_000_000_000_000),
        ("2E", 2_000_000_000_000_000_000),
        ("1Ki", 1 << 10),
        ("128Mi", 128 << 20),
        ("1Gi", 1 << 30),
        ("1Ti", 1 << 40),
        ("1Pi", 1 << 50),
        ("7Ei", 7 << 60),
        ("1.5Gi", 3 << 29),
        ("0.5Ki", 512),
        // More digits than 128 bits hold.
        ("0.012345679012345679012345679012345679012345679012345679Ei", 14_233_598_822_306_753),
        ("1e3", 1_000),
        ("1E3", 1_000),
        ("1e+3", 1_000),
        ("12e-1", 2),
        ("1e-300", 1),
        ("1e-99999999999999999999", 1),
        ("0e99999999999999999999", 0),
        (".5", 1),
        ("5.", 5),
        ("1500m", 2),
        ("1n", 1),
        ("1u", 1),
        ("0000000000000000000000000000000000000001", 1),
        ("1.00000000000000000000000000000000000001", 2),
        ("0.00000000000000000000000000000000000001E", 1),
        ("9223372036854775807", 9_223_372_036_854_775_807),
    ] {
        assert_eq!(units(given), Ok(expected), "{given}");
    }
}

#[test]
fn thousandths_round_up() {
    for (given, expected) in
        [("1", 1000), ("500m", 500), ("0.1", 100), ("0.0001", 1), ("1u", 1), ("1.0005", 1001), ("2e-3", 2)]
    {
        assert_eq!(millis(given), Ok(expected), "{given}");
    }
    assert!(matches!(millis("9e18"), Err(QuantityError::Range { .. })));
}

#[test]
fn what_is_no_quantity_is_refused() {
    for given in [
        "", "m", "a", "1.2.3", "-", "+", "--1", "+-1", ".", "Mi", "1 Mi", " 1", "1 ", "1e", "1e+", "1e1.5", "1mi",
        "1K", "1kk", "1MiB", "0x10", "１", "1e３",
    ] {
        assert!(Amount::parse(given).is_err() && Amount::capped(given).is_err(), "{given}");
    }
    assert_eq!(units("-1"), Err(QuantityError::Negative { given: "-1".to_owned() }));
    assert_eq!(units("-0"), Ok(0));
    assert!(matches!(units("1x"), Err(QuantityError::Suffix { suffix, .. }) if suffix == "x"));
}

#[test]
fn what_is_beyond_is_refused_or_capped() {
    for given in [
        "9223372036854775808",
        "9223372036854775807.0000000001",
        "8Ei",
        "1e19",
        "1e1000000000000000000000",
        "99999999999999999999999999999999999999",
        "99999999999999999999Ei",
        "99999999999999999999E",
    ] {
        assert_eq!(units(given), Err(QuantityError::Range { given: given.to_owned() }));
        assert_eq!(Amount::capped(given), Ok(Amount::MAX), "{given}");
        assert_eq!(Amount::capped(&format!("-{given}")), Ok(Amount(-MAX_NANO)), "{given}");
    }
    assert_eq!(Amount::MAX.to_string(), "9223372036854775807");
}

#[test]
fn amounts_print_and_compare_across_units() {
    for (text, shown) in [
        ("500m", "500m"),
        ("1000m", "1"),
        ("0.5", "500m"),
        ("1Ki", "1024"),
        ("5e-1", "500m"),
        ("-1", "-1"),
        ("-0.5", "-500m"),
        ("+3", "3"),
        ("1.5u", "1500n"),
        ("0.0000000001", "1n"),
        ("-0.0000000001", "-1n"),
    ] {
        assert_eq!(Amount::parse(text).map(|amount| amount.to_string()), Ok(shown.to_owned()), "{text}");
    }
    let read = |text: &str| Amount::parse(text).unwrap();
    assert!(read("1Gi") > read("1G") && read("-1m").is_negative() && !read("1m").is_whole());
    assert_eq!(Amount::whole(2), read("2000m"));
    assert_eq!(Amount::whole(1).plus(Amount::whole(2)), Amount::whole(3));
}

proptest! {
    #[test]
    fn nothing_panics(text in "[-+]?[0-9.]{0,60}[a-zA-Z0-9+-]{0,8}") {
        let (parsed, capped) = (Amount::parse(&text), Amount::capped(&text));
        let out_of_range = matches!(parsed, Err(QuantityError::Range { .. }));
        prop_assert!(parsed == capped || out_of_range);
    }

    #[test]
    fn printed_amounts_read_back(nano in -MAX_NANO..=MAX_NANO) {
        prop_assert_eq!(Amount::parse(&Amount(nano).to_string()), Ok(Amount(nano)));
    }

    #[test]
    fn a_sum_of_thousandths_is_exact(whole in 0_u64..9_000_000_000, milli in 0_u64..1000) {
        prop_assert_eq!(millis(&format!("{whole}.{milli:03}")), Ok(whole * 1000 + milli));
        prop_assert_eq!(millis(&format!("{}m", whole * 1000 + milli)), Ok(whole * 1000 + milli));
    }

    /// The same number in other words: zeros around it, the point moved into the exponent, the suffix of a power of ten.
    #[test]
    fn ways_to_write_a_number_agree(
        whole in 0_u64..1_000_000,
        fraction in "[0-9]{0,12}",
        power in -9_i32..=9,
        zeros in 0_usize..40,
    ) {
        let plain = Amount::parse(&format!("{whole}.{fraction}e{power}"));
        let (before, after) = ("0".repeat(zeros), "0".repeat(40 - zeros));
        prop_assert_eq!(&Amount::parse(&format!("{before}{whole}.{fraction}{after}E{power}")), &plain);
        let moved = power - i32::try_from(fraction.len()).unwrap();
        prop_assert_eq!(&Amount::parse(&format!("{whole}{fraction}e{moved}")), &plain);
        for (suffix, of) in [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9)] {
            if of == power {
                prop_assert_eq!(&Amount::parse(&format!("{whole}.{fraction}{suffix}")), &plain);
            }
        }
    }

    /// 2^10 × x is 1024 × x, digit by digit.
    #[test]
    fn binary_suffixes_multiply_exactly(digits in 0_u64..1_000_000_000_000, places in 0_u32..=18) {
        let scale = 10_i128.pow(places);
        let (value, places) = (i128::from(digits), usize::try_from(places).unwrap());
        let (whole, rest) = (value / scale, value % scale);
        let text = if places == 0 { format!("{whole}Ki") } else { format!("{whole}.{rest:0places$}Ki") };
        let exact = value * 1024 * NANO;
        prop_assert_eq!(Amount::parse(&text), Ok(Amount((exact + scale - 1) / scale)), "{}", text);
    }
}
