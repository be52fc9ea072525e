#!/bin/sh
# lint.sh -- the rules of the house that a script can see. Prints each breach; silent if there is none.
cd "$(dirname "$0")/.." || exit 1
bad=$(mktemp)
trap 'rm -f "$bad"' EXIT

# lines of at most 100 columns (bytes of UTF-8 sequences count once)
awk 'length($0) > 100 { n = $0; gsub(/[\200-\277]/, "", n); if (length(n) > 100) print FILENAME ":" FNR ": over 100 columns" }' \
  tfpre.h examples/*.c examples/*.h tests/*.c tests/*.h >> "$bad"

# every tag of the table of contents is there once, and nothing else is tagged
for tag in $(sed -n '/^ \* CONTENTS/,/^ \* CONVENTIONS/p' tfpre.h | grep -o '>>[a-z]*\(\.[ch]\)\{0,1\}' | grep -v '>>name' | sort -u); do
  n=$(grep -c "^ \* $tag  " tfpre.h)
  [ "$n" -eq 1 ] || echo "tfpre.h: tag $tag stands $n times" >> "$bad"
done
grep -o '^ \* >>[a-z]*\(\.[ch]\)\{0,1\}  ' tfpre.h | tr -d ' *' | while read -r tag; do
  sed -n '/^ \* CONTENTS/,/^ \* CONVENTIONS/p' tfpre.h | grep -q "$tag\b" || echo "tfpre.h: tag $tag is not in the contents" >> "$bad"
done

# every public function is named in a comment "tfp_name ... -- what", with Returns unless it is void,
# and the fields in their order
awk '
  function field_order(line,   i) {
    for (i = 1; i <= 8; i++) if (line ~ "^ \\* " names[i] "( |$)") return i
    return 0
  }
  BEGIN { split("Shapes Args Returns Errors Grad Memory Cost Source", names, " ") }
  /TFPRE_IMPLEMENTATION\) && !defined\(TFPRE_IMPLEMENTED/ { exit }
  /^\/\* tfp_/ || (inside && /^ \* tfp_[a-z_0-9]*( --|,)/) { }
  /^\/\*/ { inside = 1; text = ""; last = 0; has_returns = 0 }
  inside {
    text = text "\n" $0
    f = field_order($0)
    if (f) { if (f < last) print FILENAME ":" FNR ": field " names[f] " out of order"; last = f; if (f == 3) has_returns = 1 }
  }
  inside && /\*\// { inside = 0; doc = text; doc_returns = has_returns }
  /^TFP_API / {
    line = $0
    sub(/^TFP_API /, "", line)
    type = line
    if (match(line, /tfp_[a-z_0-9]*\(/)) {
      name = substr(line, RSTART, RLENGTH - 1)
      type = substr(line, 1, RSTART - 1)
      if (doc !~ "(^|[^a-z_0-9])" name "([^a-z_0-9]|$)" && !(name ~ /_free$/)) print FILENAME ":" FNR ": " name " has no comment"
      else if (type !~ /^void $/ && !doc_returns && !(name ~ /_free$/)) print FILENAME ":" FNR ": " name " does not say what it returns"
    }
  }' tfpre.h >> "$bad"

# functions of at most 70 lines, or a little more where a table or a switch makes them
awk '/^[A-Za-z].*\) \{$/ { name = $0; start = NR }
     /^\}/ { if (start && NR - start > 80) print FILENAME ":" start ": " NR - start " lines: " name; start = 0 }' \
  tfpre.h examples/*.c >> "$bad"

grep -nE '\b(TODO|FIXME|XXX|HACK)\b' tfpre.h examples/*.[ch] tests/*.[ch] Makefile README.md >> "$bad"

cat "$bad"
[ ! -s "$bad" ]
