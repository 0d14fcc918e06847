//! Currencies of ISO 4217: the codes of money that people pay with, and how many decimals each has.
//! Metals, funds, test codes and the like are left out.
//!
//! The tables are short and change about once a year. Crates with all of ISO 4217 would add names,
//! symbols and countries, and some have the decimals of CLDR, which are for display and differ.

const CODES: &str = "\
    AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BHD BIF BMD BND BOB BRL BSD BTN \
    BWP BYN BZD CAD CDF CHF CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB \
    EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF IDR ILS INR IQD IRR \
    ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD \
    MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR \
    PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE \
    SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD UYU \
    UZS VED VES VND VUV WST XAF XCD XCG XOF XPF YER ZAR ZMW ZWG";

/// The currencies without a minor unit.
const WITHOUT_DECIMALS: &str = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF";

/// The currencies whose minor unit is a thousandth.
const WITH_THREE: &str = "BHD IQD JOD KWD LYD OMR TND";

/// Whether this is such a code, in upper case.
pub fn is_known(code: &str) -> bool {
    has(CODES, code)
}

/// How many decimals the minor unit of a currency has: 2 for EUR, where it is the cent.
pub fn decimals(code: &str) -> u32 {
    if has(WITHOUT_DECIMALS, code) {
        0
    } else if has(WITH_THREE, code) {
        3
    } else {
        2
    }
}

fn has(codes: &str, code: &str) -> bool {
    codes.split(' ').any(|known| known == code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_codes_of_three_letters_in_upper_case_only() {
        assert!(CODES.split(' ').is_sorted() && CODES.split(' ').all(|code| code.len() == 3));
        assert!(["AED", "EUR", "JPY", "USD", "ZWG"].into_iter().all(is_known));
        assert!(
            ["", "eur", "XXX", "XAU", "EUR ", "EU", "DEM"].into_iter().all(|code| !is_known(code))
        );
    }

    #[test]
    fn minor_units_are_those_of_iso_4217() {
        let with = |wanted| CODES.split(' ').filter(|code| decimals(code) == wanted).count();
        assert_eq!((with(0), with(2), with(3)), (16, 132, 7));
        let exceptions = [WITHOUT_DECIMALS, WITH_THREE].into_iter().flat_map(|of| of.split(' '));
        assert!(exceptions.clone().all(is_known), "{:?}", exceptions.collect::<Vec<_>>());
        assert_eq!(["ISK", "HUF", "EUR", "IQD"].map(decimals), [0, 2, 2, 3]);
    }
}
