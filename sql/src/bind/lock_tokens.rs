//! Locking clauses, as far as `sqlparser` can't read them: `FOR NO KEY UPDATE`, `FOR KEY SHARE`, lists after OF, and clauses in front
//! of LIMIT.
//!
//! Such a clause becomes one that it can read, with what it means in the name after OF: [`MARK`], strength, and names.

use sqlparser::tokenizer::{Token, TokenWithSpan, Word};

use super::locking::{KEY_SHARE, MARK, NO_KEY_UPDATE};
use super::scope::fold;

fn word(tokens: &[TokenWithSpan], at: usize) -> Option<&Word> {
    match &tokens.get(at)?.token {
        Token::Word(word) => Some(word),
        _ => None,
    }
}

/// Whether these unquoted words stand there.
fn are(tokens: &[TokenWithSpan], at: usize, words: &[&str]) -> bool {
    words.iter().enumerate().all(|(n, wanted)| {
        word(tokens, at + n).is_some_and(|w| w.quote_style.is_none() && w.value.eq_ignore_ascii_case(wanted))
    })
}

/// The tokens of a statement, without white space, as `sqlparser` can read them.
pub(super) fn readable(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    if !(0..tokens.len()).any(|at| are(&tokens, at, &["for"])) {
        return tokens;
    }
    let mut out = Vec::with_capacity(tokens.len());
    let mut at = 0;
    while at < tokens.len() {
        let Some((mut clauses, mut end)) = clause(&tokens, at) else {
            out.push(tokens[at].clone());
            at += 1;
            continue;
        };
        while let Some((more, next)) = clause(&tokens, end) {
            clauses.extend(more);
            end = next;
        }
        let limit_end = end_of_limit(&tokens, end);
        out.extend_from_slice(&tokens[end..limit_end]);
        out.extend(clauses);
        at = limit_end;
    }
    out
}

/// A clause that begins at `at`, and where it ends.
fn clause(tokens: &[TokenWithSpan], at: usize) -> Option<(Vec<TokenWithSpan>, usize)> {
    let strengths: [(&[&str], &str); 4] = [
        (&["for", "update"], ""),
        (&["for", "share"], ""),
        (&["for", "no", "key", "update"], NO_KEY_UPDATE),
        (&["for", "key", "share"], KEY_SHARE),
    ];
    let (words, strength) = strengths.into_iter().find(|(words, _)| are(tokens, at, words))?;
    let mut next = at + words.len();
    let mut clause = vec![tokens[at].clone(), tokens[next - 1].clone()];
    let mut names = Vec::new();
    let mut of = None;
    if are(tokens, next, &["of"]) {
        of = Some(tokens[next].clone());
        let first = next + 1;
        next = first;
        while let Some(name) = word(tokens, next) {
            names.push(fold(&name.to_ident(tokens[next].span)));
            next += 1;
            match tokens.get(next).map(|t| &t.token) {
                Some(Token::Comma) => next += 1,
                // A qualified name, which the binder refuses.
                Some(Token::Period) => return None,
                _ => break,
            }
        }
        if names.len() < 2 && strength.is_empty() {
            clause.extend(of.take());
            clause.extend_from_slice(&tokens[first..next]);
            names.clear();
        }
    }
    if !strength.is_empty() || of.is_some() {
        let place = of.unwrap_or_else(|| tokens[at].clone());
        let name = [strength].into_iter().chain(names.iter().map(String::as_str));
        let name: String = name.flat_map(|part| [MARK.to_string(), part.to_owned()]).collect();
        let keyword =
            |text: &str, quoted| TokenWithSpan { token: Token::make_word(text, quoted), span: place.span };
        clause.push(keyword("OF", None));
        clause.push(keyword(&name, Some('"')));
    }
    if are(tokens, next, &["nowait"]) {
        clause.push(tokens[next].clone());
        next += 1;
    } else if are(tokens, next, &["skip", "locked"]) {
        clause.extend_from_slice(&tokens[next..next + 2]);
        next += 2;
    }
    Some((clause, next))
}

/// Where LIMIT, OFFSET and FETCH end that begin at `at`; `at` if there are none.
fn end_of_limit(tokens: &[TokenWithSpan], at: usize) -> usize {
    if !["limit", "offset", "fetch"].into_iter().any(|first| are(tokens, at, &[first])) {
        return at;
    }
    let mut depth = 0;
    for (n, token) in tokens.iter().enumerate().skip(at) {
        match &token.token {
            Token::LParen => depth += 1,
            Token::RParen if depth == 0 => return n,
            Token::RParen => depth -= 1,
            // What may follow a query that isn't in parentheses.
            Token::Word(_) if depth == 0 => {
                let follows = ["on", "returning", "for", "union", "intersect", "except", "with"];
                if follows.into_iter().any(|word| are(tokens, n, &[word])) {
                    return n;
                }
            }
            _ => {}
        }
    }
    tokens.len()
}
