"""The database's functions over addresses: the same three questions as `email_platform.domain.addresses`, in SQL.

Invariant: they answer as Python does, whatever the database's collation and version; a property test holds the two
together. A migration makes them, so a change here needs a revision of its own that replaces them.
"""

from __future__ import annotations

import string

from email_platform.domain.addresses import CAPITAL_LETTERS, SMALL_LETTERS, TRIMMED_ASCII, TRIMMED_CHARACTERS
from email_platform.domain.erasure import PSEUDONYM_END, PSEUDONYM_HEX_DIGITS, PSEUDONYM_START

# The case of `email_platform.domain.addresses.mailable_address` that needs more than built-in functions. RFC 3492,
# section 6.3, is the encoder; 36, 1, 26, 38, 700, 72 and 128 are its parameters for domain names (section 5).
# `octet_length` and `char_length` differ where a text is not ASCII: no pattern, whose classes a locale may change.
_IN_ANOTHER_SCRIPT = """
create or replace function {schema}.email_address_in_another_script(email text) returns text
language plpgsql immutable strict parallel safe as $function$
declare
    trimmed constant text := btrim(email, {trimmed});
    at constant integer := char_length(trimmed) - strpos(reverse(trimmed), '@') + 1;
    domain text;
    folded text;
    label text;
    labels text[] := '{{}}';
    code_points integer[];
    output text;
    n integer;
    delta bigint;
    bias integer;
    handled integer;
    basic integer;
    next_point integer;
    point integer;
    q bigint;
    k integer;
    t integer;
    digit integer;
begin
    if strpos(trimmed, '@') = 0 then
        return trimmed;
    end if;
    domain := substr(trimmed, at + 1);
    if octet_length(domain) = char_length(domain) then
        return trimmed;
    end if;
    folded := normalize(translate(normalize(domain, nfkc), {capitals}, {smalls}), nfkc);
    if translate(folded, {trimmed}, '') <> folded then
        return trimmed;
    end if;
    foreach label in array string_to_array(translate(folded, U&'\\3002', '.'), '.') loop
        if octet_length(label) = char_length(label) then
            labels := labels || label;
            continue;
        end if;
        select array_agg(ascii(one) order by place) into code_points
        from unnest(regexp_split_to_array(label, '')) with ordinality as letters (one, place);
        output := '';
        foreach point in array code_points loop
            if point < 128 then
                output := output || chr(point);
            end if;
        end loop;
        basic := char_length(output);
        handled := basic;
        if basic > 0 then
            output := output || '-';
        end if;
        n := 128;
        delta := 0;
        bias := 72;
        while handled < array_length(code_points, 1) loop
            select min(one) into next_point from unnest(code_points) as one where one >= n;
            delta := delta + (next_point - n)::bigint * (handled + 1);
            n := next_point;
            foreach point in array code_points loop
                if point < n then
                    delta := delta + 1;
                elsif point = n then
                    q := delta;
                    k := 36;
                    loop
                        t := least(greatest(k - bias, 1), 26);
                        exit when q < t;
                        digit := (t + (q - t) % (36 - t))::integer;
                        output := output || substr('abcdefghijklmnopqrstuvwxyz0123456789', digit + 1, 1);
                        q := (q - t) / (36 - t);
                        k := k + 36;
                    end loop;
                    output := output || substr('abcdefghijklmnopqrstuvwxyz0123456789', q::integer + 1, 1);
                    delta := case when handled = basic then delta / 700 else delta / 2 end;
                    delta := delta + delta / (handled + 1);
                    k := 0;
                    while delta > 455 loop
                        delta := delta / 35;
                        k := k + 36;
                    end loop;
                    bias := (k + 36 * delta / (delta + 38))::integer;
                    delta := 0;
                    handled := handled + 1;
                end if;
            end loop;
            delta := delta + 1;
            n := n + 1;
        end loop;
        labels := labels || ('xn--' || output);
    end loop;
    return substr(trimmed, 1, at) || array_to_string(labels, '.');
end
$function$
"""

# With their schema, since an index is built and a dump restored under an empty search path. Not strict: PostgreSQL
# puts the body of such a function into the statement only where it is not.
_MAILABLE = """
create or replace function {schema}.mailable_email_address(email text) returns text
language sql immutable parallel safe as $function$
select case
    when octet_length(email) = char_length(email) then btrim(email, {trimmed_ascii})
    else {schema}.email_address_in_another_script(email)
end
$function$
"""

_KEY = """
create or replace function {schema}.email_address_key(email text) returns text
language sql immutable parallel safe as $function$
select lower({schema}.mailable_email_address(email) collate "C")
$function$
"""


# HMAC-SHA256 (RFC 2104) from the built-in hash: the two arguments are the key with the inner and the outer pad.
_ERASED = """
create or replace function {schema}.erased_address(email text, inner_pad bytea, outer_pad bytea) returns text
language sql stable parallel safe as $function$
select {start} || substr(encode(sha256(outer_pad || sha256(
    inner_pad || convert_to({schema}.email_address_key(email), 'UTF8')
)), 'hex'), 1, {digits}) || {end}
$function$
"""


def erasure_function(schema: str) -> str:
    """The statement that makes ``erased_address``: `email_platform.domain.erasure.ErasureKey.pseudonym` in SQL.

    Args:
        schema: where, as it stands in SQL.
    """
    return _ERASED.format(
        schema=schema,
        start=f"'{PSEUDONYM_START}'",
        digits=PSEUDONYM_HEX_DIGITS,
        end=f"'{PSEUDONYM_END}'",
    )


def address_functions(schema: str) -> tuple[str, ...]:
    """The statements that make the functions, in order.

    Args:
        schema: where, as it stands in SQL (quoted where it must be).
    """
    parts = {
        "schema": schema,
        "trimmed": _literal(TRIMMED_CHARACTERS),
        "trimmed_ascii": _literal(TRIMMED_ASCII),
        "capitals": _literal(string.ascii_uppercase + CAPITAL_LETTERS),
        "smalls": _literal(string.ascii_lowercase + SMALL_LETTERS),
    }
    return tuple(statement.format(**parts) for statement in (_IN_ANOTHER_SCRIPT, _MAILABLE, _KEY))


def _literal(value: str) -> str:
    """The text as a Unicode escape string of SQL, so that no invisible character stands in a statement."""
    return "U&'" + "".join(f"\\+{ord(character):06x}" for character in value) + "'"
