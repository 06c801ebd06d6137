//! `to_char` and `to_number` of numbers (PostgreSQL 15, table 9.30).

use super::define::{Args, f, numeric};
use super::to_char::ordinal_suffix;
use super::{EvalContext, Function};
use crate::error::{Result, SqlError, SqlState};
use crate::types::{Datum, Numeric, Type};

pub(super) static FUNCTIONS: &[Function] = &[
    f("to_char", &[Type::Int4, Type::Text], Type::Text, |_, a| {
        format(&Numeric::from(a.int(0)?), a.text(1)?).map(Datum::text)
    })
    .stable(),
    f("to_char", &[Type::Int8, Type::Text], Type::Text, |_, a| {
        format(&Numeric::from(a.int(0)?), a.text(1)?).map(Datum::text)
    })
    .stable(),
    f("to_char", &[Type::Numeric, Type::Text], Type::Text, |_, a| {
        format(a.numeric(0)?, a.text(1)?).map(Datum::text)
    })
    .stable(),
    f("to_char", &[Type::Float4, Type::Text], Type::Text, |_, a| {
        format(&Numeric::from_f64(a.float(0)?, 6), a.text(1)?).map(Datum::text)
    })
    .stable(),
    f("to_char", &[Type::Float8, Type::Text], Type::Text, |_, a| {
        format(&Numeric::from_f64(a.float(0)?, 15), a.text(1)?).map(Datum::text)
    })
    .stable(),
    f("to_number", &[Type::Text, Type::Text], Type::Numeric, to_number).stable(),
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Token<'a> {
    /// `9`
    Nine,
    /// `0`
    Zero,
    /// `.` and `D`
    Point,
    /// `,` and `G`
    Group,
    /// `S`: a sign anchored to the number
    Sign,
    Minus,
    Plus,
    PlusMinus,
    /// `L`: the `C` locale's currency symbol is a blank
    Currency,
    /// `TH`, `th`
    Ordinal(&'a str),
    Text(char),
}

#[derive(Debug, Default)]
struct Template<'a> {
    tokens: Vec<Token<'a>>,
    fill: bool,
    bracket: bool,
    exponent: bool,
    roman: Option<bool>,
    /// Digits before and after the point.
    before: usize,
    after: usize,
    point: bool,
    /// Digits after `V`.
    shift: Option<usize>,
    /// The first and last `0`, among the digits and the point.
    zero_start: Option<usize>,
    zero_end: Option<usize>,
    /// `S` comes after all digits.
    sign_behind: bool,
    signed: bool,
    plus: bool,
    minus: bool,
}

fn template(pattern: &str) -> Result<Template<'_>> {
    let syntax = |message: String| Err(SqlError::new(SqlState::SYNTAX_ERROR, message));
    let mut out = Template::default();
    let mut rest = pattern;
    let mut places = 0;
    while let Some(c) = rest.chars().next() {
        let upper: String = rest.chars().take(4).collect::<String>().to_ascii_uppercase();
        let mut width = c.len_utf8();
        if upper.starts_with("EEEE") {
            out.exponent = true;
            width = 4;
        } else if upper.starts_with("FM") {
            out.fill = true;
            width = 2;
        } else if upper.starts_with("MI") {
            out.tokens.push(Token::Minus);
            out.minus = true;
            width = 2;
        } else if upper.starts_with("PL") {
            out.tokens.push(Token::Plus);
            out.plus = true;
            width = 2;
        } else if upper.starts_with("PR") {
            out.bracket = true;
            width = 2;
        } else if upper.starts_with("RN") {
            out.roman = Some(c == 'R');
            width = 2;
        } else if upper.starts_with("SG") {
            out.tokens.push(Token::PlusMinus);
            (out.plus, out.minus) = (true, true);
            width = 2;
        } else if upper.starts_with("TH") {
            out.tokens.push(Token::Ordinal(&rest[..2]));
            width = 2;
        } else {
            match c {
                '9' | '0' => {
                    if c == '0' {
                        out.zero_start.get_or_insert(places);
                        out.zero_end = Some(places);
                    }
                    places += 1;
                    match (out.point, &mut out.shift) {
                        (_, Some(shift)) => {
                            *shift += 1;
                            out.before += 1;
                        }
                        (true, _) => out.after += 1,
                        (false, _) => out.before += 1,
                    }
                    out.tokens.push(if c == '9' { Token::Nine } else { Token::Zero });
                }
                '.' | 'D' | 'd' => {
                    if out.point {
                        return syntax("multiple decimal points".into());
                    }
                    places += 1;
                    out.point = true;
                    out.tokens.push(Token::Point);
                }
                ',' | 'G' | 'g' => out.tokens.push(Token::Group),
                'S' | 's' => {
                    if out.signed {
                        return syntax("cannot use \"S\" twice".into());
                    }
                    out.signed = true;
                    out.sign_behind = out.before > 0;
                    out.tokens.push(Token::Sign);
                }
                'L' | 'l' => out.tokens.push(Token::Currency),
                'V' | 'v' => out.shift = Some(0),
                '"' => {
                    let end = rest[1..].find('"').map_or(rest.len(), |at| at + 2);
                    let inner = rest[1..end].trim_end_matches('"');
                    out.tokens.extend(inner.chars().map(Token::Text));
                    width = end;
                }
                c => out.tokens.push(Token::Text(c)),
            }
        }
        rest = &rest[width..];
    }
    Ok(out)
}

fn format(value: &Numeric, pattern: &str) -> Result<String> {
    let template = template(pattern)?;
    if let Some(upper) = template.roman {
        return Ok(roman(value, upper, template.fill));
    }
    if template.exponent {
        return Ok(scientific(value, template.after));
    }
    let value = match template.shift {
        Some(shift) => value.mul(&Numeric::from(10_i64).power(&Numeric::from(shift as i64))?)?,
        None => value.clone(),
    };
    Ok(Writer::new(&value, &template).write())
}

fn scientific(value: &Numeric, places: usize) -> String {
    match value {
        Numeric::Finite(_) if value.is_zero() => format!(" {:.places$}e+00", 0.0),
        Numeric::Finite(_) => {
            let Some((digits, scale)) = value.to_parts() else { return String::new() };
            let magnitude = digits.magnitude().to_string();
            let mut exponent = magnitude.len() as i64 - 1 - scale;
            // 1.ddd…: shift the point behind the first digit and round.
            let mantissa = Numeric::from_parts(digits.magnitude().clone(), (magnitude.len() - 1) as u16);
            let mut rounded = mantissa.round(places as i64).to_string();
            if rounded.starts_with("10") {
                exponent += 1;
                rounded = Numeric::from(1_i64).round(places as i64).to_string();
            }
            let sign = if value.signum() < 0 { "-" } else { " " };
            let exponent_sign = if exponent < 0 { '-' } else { '+' };
            format!("{sign}{rounded}e{exponent_sign}{:02}", exponent.abs())
        }
        // Neither NaN nor an infinity has an exponent.
        _ => format!(" #{}####", if places > 0 { format!(".{}", "#".repeat(places)) } else { String::new() }),
    }
}

fn roman(value: &Numeric, upper: bool, fill: bool) -> String {
    const SYMBOLS: [(i128, &str); 13] = [
        (1000, "M"),
        (900, "CM"),
        (500, "D"),
        (400, "CD"),
        (100, "C"),
        (90, "XC"),
        (50, "L"),
        (40, "XL"),
        (10, "X"),
        (9, "IX"),
        (5, "V"),
        (4, "IV"),
        (1, "I"),
    ];
    let mut rest = match value.to_i128() {
        Some(value @ 1..=3999) => value,
        _ => return "#".repeat(15),
    };
    let mut out = String::new();
    for (worth, symbol) in SYMBOLS {
        while rest >= worth {
            out.push_str(symbol);
            rest -= worth;
        }
    }
    let out = if upper { out } else { out.to_lowercase() };
    if fill { out } else { format!("{out:>15}") }
}

/// Lays a number's digits out along a template.
struct Writer<'a> {
    template: &'a Template<'a>,
    negative: bool,
    /// Digits with the point.
    number: Vec<char>,
    /// The next of them.
    at: usize,
    /// Places that the number doesn't fill.
    blanks: usize,
    /// With FM: the last digit that is shown.
    last_relevant: Option<usize>,
    sign_written: bool,
    inside: bool,
    /// How many places have been passed.
    place: usize,
    out: String,
}

impl<'a> Writer<'a> {
    fn new(value: &Numeric, template: &'a Template<'a>) -> Self {
        let negative = value.signum() < 0;
        let rounded = value.abs().round(template.after as i64);
        let negative =
            negative && !(rounded.is_zero() && matches!(rounded, Numeric::Finite(_)) && value.is_zero());
        let mut text = match rounded {
            Numeric::Finite(_) => rounded.to_string(),
            _ => "#".repeat(template.before + 1),
        };
        let whole = text.find('.').unwrap_or(text.len());
        let mut blanks = 0;
        if whole > template.before || !matches!(value, Numeric::Finite(_)) {
            // Too long for its places.
            text = "#".repeat(template.before);
            if template.point || template.after > 0 {
                text.push('.');
                text.push_str(&"#".repeat(template.after));
            }
        } else {
            blanks = template.before - whole;
        }
        let number: Vec<char> = text.chars().collect();
        let mut last_relevant = None;
        if template.fill && template.point {
            let point = number.iter().position(|c| *c == '.');
            last_relevant = point.map(|point| {
                let significant = number.iter().rposition(|c| *c != '0').unwrap_or(point);
                significant.max(point)
            });
            // A `0` keeps the digits up to it.
            if let (Some(zero_end), Some(last)) = (template.zero_end, &mut last_relevant)
                && zero_end >= blanks
            {
                *last = (*last).max((zero_end - blanks).min(number.len() - 1));
            }
        }
        let sign_written = if template.plus || template.minus {
            !template.plus || template.minus
        } else {
            !negative && template.fill && !template.signed
        };
        Self {
            template,
            negative,
            number,
            at: 0,
            blanks,
            last_relevant,
            sign_written,
            inside: false,
            place: 0,
            out: String::new(),
        }
    }

    fn write(mut self) -> String {
        let template = self.template;
        for token in &template.tokens {
            match token {
                Token::Nine | Token::Zero | Token::Point => self.place(*token),
                Token::Group => {
                    if self.inside {
                        self.out.push(',');
                    } else if !template.fill {
                        self.out.push(' ');
                    }
                }
                Token::Sign => {}
                Token::Minus => match (self.negative, template.fill) {
                    (true, _) => self.out.push('-'),
                    (false, false) => self.out.push(' '),
                    _ => {}
                },
                Token::Plus => match (self.negative, template.fill) {
                    (false, _) => self.out.push('+'),
                    (true, false) => self.out.push(' '),
                    _ => {}
                },
                Token::PlusMinus => self.out.push(if self.negative { '-' } else { '+' }),
                Token::Currency => self.out.push(' '),
                Token::Ordinal(case) => {
                    if !self.negative && !template.point && !self.number.contains(&'#') {
                        let last: String = self.number.iter().rev().take(2).rev().collect();
                        let suffix = ordinal_suffix(last.parse().unwrap_or(0));
                        let upper = case.starts_with('T');
                        self.out.push_str(&if upper { suffix.to_uppercase() } else { suffix.into() });
                    }
                }
                Token::Text(c) => self.out.push(*c),
            }
        }
        self.out
    }

    /// The zero in front of the point, where the template doesn't ask for it.
    fn is_idle_zero(&self) -> bool {
        self.template.zero_start.is_none()
            && self.at == 0
            && self.number.first() == Some(&'0')
            && self.template.after != 0
    }

    fn place(&mut self, token: Token<'_>) {
        let template = self.template;
        let zeros = template.zero_start.is_some_and(|start| start <= self.place);
        let only_point = self.last_relevant.is_some_and(|last| self.number.get(last) == Some(&'.'));
        let begins = self.place >= self.blanks || template.zero_start == Some(self.place);
        if !self.sign_written && begins && (!self.is_idle_zero() || only_point) {
            self.leading_sign();
        }
        if self.place < self.blanks && !zeros {
            if !template.fill {
                self.out.push(' ');
            }
        } else if self.place < self.blanks {
            self.out.push('0');
            self.inside = true;
        } else {
            self.digit(token, only_point);
            self.at += 1;
        }
        self.place += 1;
        let shown = match self.last_relevant {
            Some(last) if self.blanks + last + 1 < template.before + template.after + 1 => {
                self.blanks + last + 1
            }
            _ => template.before + template.after + usize::from(template.point),
        };
        if self.place == shown {
            self.trailing_sign();
        }
    }

    fn digit(&mut self, token: Token<'_>, only_point: bool) {
        let beyond = self.last_relevant.is_some_and(|last| self.at > last);
        match self.number.get(self.at).copied() {
            None => {}
            Some('.') => self.out.push('.'),
            Some(_) if beyond && token != Token::Zero => {}
            Some(_) if self.is_idle_zero() => {
                if !self.template.fill {
                    self.out.push(' ');
                } else if only_point {
                    self.out.push('0');
                }
            }
            Some(digit) => {
                self.out.push(digit);
                self.inside = true;
            }
        }
    }

    fn leading_sign(&mut self) {
        let template = self.template;
        if template.signed {
            if template.sign_behind {
                return;
            }
            self.out.push(if self.negative { '-' } else { '+' });
        } else if template.bracket {
            match (self.negative, template.fill) {
                (true, _) => self.out.push('<'),
                (false, false) => self.out.push(' '),
                _ => {}
            }
        } else if self.negative {
            self.out.push('-');
        } else if !template.fill {
            self.out.push(' ');
        }
        self.sign_written = true;
    }

    fn trailing_sign(&mut self) {
        let template = self.template;
        if template.bracket && self.sign_written && !template.signed {
            match (self.negative, template.fill) {
                (true, _) => self.out.push('>'),
                (false, false) => self.out.push(' '),
                _ => {}
            }
        } else if template.signed && template.sign_behind {
            self.out.push(if self.negative { '-' } else { '+' });
        }
    }
}

fn to_number(_: &EvalContext, a: &[Datum]) -> Result<Datum> {
    let (text, template) = (a.text(0)?, template(a.text(1)?)?);
    let mut digits = String::new();
    let mut negative = false;
    let mut chars = text.trim_start().chars().peekable();
    let mut point = false;
    for token in &template.tokens {
        // Signs, brackets and currency may stand anywhere around the number.
        while let Some(c) = chars.peek().copied().filter(|c| matches!(c, '-' | '+' | '<' | '>' | ' ' | '$')) {
            negative |= matches!(c, '-' | '<');
            chars.next();
        }
        match (token, chars.peek().copied()) {
            (_, None) => break,
            (Token::Nine | Token::Zero, Some(c)) if c.is_ascii_digit() => {
                digits.push(c);
                chars.next();
            }
            (Token::Nine | Token::Zero, Some('.')) if !point && template.point => {
                // The number has fewer digits in front of the point than the template.
                point = true;
                digits.push('.');
                chars.next();
                if let Some(c) = chars.peek().copied().filter(char::is_ascii_digit) {
                    digits.push(c);
                    chars.next();
                }
            }
            (Token::Nine | Token::Zero, Some(',')) => {
                chars.next();
                if let Some(c) = chars.peek().copied().filter(char::is_ascii_digit) {
                    digits.push(c);
                    chars.next();
                }
            }
            (Token::Point, Some('.')) if !point => {
                point = true;
                digits.push('.');
                chars.next();
            }
            (Token::Group, Some(',')) => {
                chars.next();
            }
            (Token::Text(_), Some(c)) if !c.is_ascii_digit() => {
                chars.next();
            }
            _ => {}
        }
    }
    negative |= chars.any(|c| c == '-');
    match Numeric::parse(&digits)? {
        Some(value) => {
            let value = if negative { value.neg() } else { value };
            let value = match template.shift {
                Some(shift) => value.div(&Numeric::from(10_i64).power(&Numeric::from(shift as i64))?)?,
                None => value,
            };
            Ok(numeric(value))
        }
        None => Err(SqlError::new(
            SqlState::INVALID_TEXT_REPRESENTATION,
            format!("invalid input syntax for type numeric: \"{text}\""),
        )),
    }
}
