/* report.h -- writes build/report.html: one page, inline SVG, no scripts, no fonts or styles from
 * elsewhere, readable on a light and on a dark screen. It knows numbers and words only, nothing of
 * models; run.c fills the structs below and calls the functions in the order of the page.
 */
#ifndef REPORT_H
#define REPORT_H

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { REPORT_MAP = 32, REPORT_WORD = 24, REPORT_BOXES = 96 };

typedef struct report_curve {
  const char *title, *note;  /* what was trained; how the floor is meant */
  const float *loss;         /* nats per scored token of each step */
  int steps;
  double floor;              /* not above 0: there is none */
} report_curve;

typedef struct report_map { /* one head's attention: row i is how much token i takes from token j */
  char title[160], word[REPORT_MAP][REPORT_WORD];
  int n;
  float weight[REPORT_MAP][REPORT_MAP];
} report_map;

typedef enum report_mark {
  REPORT_PLAIN = 0,
  REPORT_HIDDEN,
  REPORT_ASKED,
  REPORT_NOTHING
} report_mark;
typedef struct report_boxes {  /* a row of tokens */
  char label[32], word[REPORT_BOXES][REPORT_WORD];
  report_mark mark[REPORT_BOXES];
  int n;
} report_boxes;

typedef struct report_task {
  const char *kind, *objective, *task, *measure;
  double first, last, floor, scratch, pretrained;
} report_task;

static void report_text(FILE *f, const char *s) {
  for (; *s; s++) {
    if (*s == '<') fputs("&lt;", f);
    else if (*s == '>') fputs("&gt;", f);
    else if (*s == '&') fputs("&amp;", f);
    else if (*s == '"') fputs("&quot;", f);
    else if ((unsigned char)*s >= 32 || *s == '\n') fputc(*s, f);
  }
}

static void report_begin(FILE *f, const char *title, const char *lead) {
  fputs("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<title>", f);
  report_text(f, title);
  fputs(
      "</title>\n<style>\n"
      ":root{color-scheme:light dark;--page:#fbfaf7;--card:#fff;--ink:#23252b;--soft:#6b6f7a;"
      "--line:#e2e0d9;--c0:#2f6fb7;--c1:#c2621b;--c2:#2c8a5b;--gray:#a3a6ae;--asked:#f7dfb0}\n"
      "@media(prefers-color-scheme:dark){:root{--page:#16181d;--card:#1e2128;--ink:#e7e7ea;"
      "--soft:#9a9eaa;--line:#333742;--c0:#79b0f0;--c1:#f0a05c;--c2:#6cc99a;--gray:#666b77;"
      "--asked:#5d4a1e}}\n"
      "body{margin:0 auto;max-width:1100px;padding:32px 20px 60px;background:var(--page);"
      "color:var(--ink);font:16px/1.55 system-ui,sans-serif}\n"
      "h1{font-size:28px;margin:0 0 6px}h2{font-size:20px;margin:44px 0 6px}"
      "p{color:var(--soft);margin:4px 0 14px;max-width:80ch}\n"
      ".row{display:flex;flex-wrap:wrap;gap:16px}.card{background:var(--card);border:1px solid "
      "var(--line);border-radius:10px;padding:12px;flex:1 1 300px;min-width:0}\n"
      "svg{display:block;width:100%;height:auto}svg text{fill:var(--soft);font:11px system-ui,"
      "sans-serif}svg .big{fill:var(--ink);font-size:13px;font-weight:600}\n"
      "table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}th,td{text-"
      "align:"
      "left;padding:6px 10px;border-bottom:1px solid var(--line)}th{color:var(--soft);font-weight:"
      "500}td.n,th.n{text-align:right}\n"
      ".k0{color:var(--c0)}.k1{color:var(--c1)}.k2{color:var(--c2)}\n"
      ".boxes{margin:10px 0 16px;line-height:2.1}.boxes "
      "b{display:inline-block;width:10em;font-weight:"
      "600}.boxes span{border:1px solid var(--line);border-radius:5px;padding:2px 6px;margin:0 2px;"
      "background:var(--card);white-space:nowrap}.boxes .h{background:var(--ink);color:var(--page)}"
      ".boxes .a{background:var(--asked)}.boxes .z{color:var(--gray);border-style:dashed}\n"
      "pre{white-space:pre-wrap;margin:0;font:14px/1.6 ui-monospace,monospace}\n"
      ".wide{overflow-x:auto}\n</style>\n</head>\n<body>\n<h1>",
      f);
  report_text(f, title);
  fputs("</h1>\n<p>", f);
  report_text(f, lead);
  fputs("</p>\n", f);
}

static void report_heading(FILE *f, const char *title, const char *lead) {
  fputs("<h2>", f);
  report_text(f, title);
  fputs("</h2>\n<p>", f);
  report_text(f, lead);
  fputs("</p>\n", f);
}

/* The loss of every step as a pale line, its mean over the latest 20 steps as a strong one. */
static void report_path(FILE *f, const report_curve *c, int window, double top, const char *style) {
  double sum = 0;
  fputs("<path fill=\"none\" d=\"", f);
  for (int i = 0; i < c->steps; i++) {
    sum += (double)c->loss[i] - (i >= window ? (double)c->loss[i - window] : 0);
    double y = sum / (i < window ? i + 1 : window);
    fprintf(f, "%c%.1f %.1f", i ? 'L' : 'M', 40 + 300.0 * i / (c->steps > 1 ? c->steps - 1 : 1),
            210 - 170 * (y < top ? y : top) / top);
  }
  fprintf(f, "\" %s/>\n", style);
}

static void report_curve_card(FILE *f, const report_curve *c, int color) {
  double top = 1;
  char style[120];
  for (int i = 0; i < c->steps; i++)
    top = (double)c->loss[i] > top ? ceil((double)c->loss[i]) : top;
  double grid = top > 5 ? 2 : 1;
  fputs("<div class=\"card\"><svg viewBox=\"0 0 352 262\" role=\"img\"><text class=\"big\" x=\"8\" "
        "y=\"16\">", f);
  report_text(f, c->title);
  fputs("</text>\n<text x=\"8\" y=\"32\">nats per scored token</text>\n", f);
  for (double y = 0; y <= top; y += grid) {
    double at = 210 - 170 * y / top;
    fprintf(f, "<path d=\"M40 %.1fH340\" stroke=\"var(--line)\"/><text x=\"34\" y=\"%.1f\" "
            "text-anchor=\"end\">%g</text>\n", at, at + 4, y);
  }
  for (int q = 0; q <= 4; q += 2)
    fprintf(f, "<text x=\"%d\" y=\"226\" text-anchor=\"%s\">%s%d</text>\n", 40 + 75 * q,
            q == 0 ? "start" : q == 4 ? "end" : "middle", q == 0 ? "step " : "", c->steps * q / 4);
  snprintf(style, sizeof style, "stroke=\"var(--c%d)\" stroke-opacity=\".3\"", color);
  report_path(f, c, 1, top, style);
  snprintf(style, sizeof style, "stroke=\"var(--c%d)\" stroke-width=\"2\"", color);
  report_path(f, c, 20, top, style);
  if (c->floor > 0) {
    double at = 210 - 170 * c->floor / top;
    fprintf(f, "<path d=\"M40 %.1fH340\" stroke=\"var(--ink)\" stroke-dasharray=\"5 4\"/>\n", at);
  }
  fprintf(
      f,
      "<path d=\"M8 246h18\" stroke=\"var(--c%d)\" stroke-width=\"2\"/><text x=\"31\" y=\"250\">"
      "loss</text>\n",
      color);
  if (c->floor > 0) {
    fputs("<path d=\"M66 246h18\" stroke=\"var(--ink)\" stroke-dasharray=\"5 4\"/><text x=\"89\" "
          "y=\"250\">", f);
    report_text(f, c->note);
    fprintf(f, " %.3f</text>\n", c->floor);
  }
  fputs("</svg></div>\n", f);
}

static void report_boxes_row(FILE *f, const report_boxes *b) {
  static const char *const style[] = {"", " class=\"h\"", " class=\"a\"", " class=\"z\""};
  fputs("<div class=\"boxes\"><b>", f);
  report_text(f, b->label);
  fputs("</b>", f);
  for (int i = 0; i < b->n; i++) {
    fprintf(f, "<span%s>", style[b->mark[i]]);
    report_text(f, b->word[i]);
    fputs("</span> ", f);
  }
  fputs("</div>\n", f);
}

/* Scratch and pretrained as two bars a task, then the numbers. */
static void report_tasks(FILE *f, const report_task *t, int n) {
  fprintf(f, "<div class=\"card\"><svg viewBox=\"0 0 800 %d\" role=\"img\">\n", 44 * n + 44);
  for (int i = 0; i <= 4; i++)
    fprintf(f,
            "<path d=\"M%d 8V%d\" stroke=\"var(--line)\"/><text x=\"%d\" y=\"%d\" text-anchor=\""
            "middle\">%g</text>\n",
            190 + 140 * i, 44 * n + 8, 190 + 140 * i, 44 * n + 24, 0.25 * i);
  for (int i = 0; i < n; i++) {
    int y = 44 * i + 12, color = t[i].kind[0] == 'e' ? 0 : t[i].kind[0] == 'd' ? 1 : 2;
    fprintf(f, "<text class=\"big\" x=\"8\" y=\"%d\">", y + 13);
    report_text(f, t[i].task);
    fprintf(f, "</text><text x=\"8\" y=\"%d\">", y + 28);
    report_text(f, t[i].measure);
    fprintf(f,
            "</text>\n<rect x=\"190\" y=\"%d\" width=\"%.1f\" height=\"13\" rx=\"2\" fill=\"var(--"
            "gray)\"/><rect x=\"190\" y=\"%d\" width=\"%.1f\" height=\"13\" rx=\"2\" "
            "fill=\"var(--c%d)\""
            "/>\n",
            y, 560 * t[i].scratch, y + 16, 560 * t[i].pretrained, color);
    fprintf(f, "<text x=\"%.1f\" y=\"%d\">%.3f</text><text x=\"%.1f\" y=\"%d\">%.3f</text>\n",
            195 + 560 * t[i].scratch, y + 11, t[i].scratch, 195 + 560 * t[i].pretrained, y + 27,
            t[i].pretrained);
  }
  fprintf(
      f,
      "<rect x=\"8\" y=\"%d\" width=\"12\" height=\"9\" fill=\"var(--gray)\"/><text x=\"26\" "
      "y=\"%d\">from scratch</text><rect x=\"100\" y=\"%d\" width=\"4\" height=\"9\" fill=\"var("
      "--c0)\"/><rect x=\"104\" y=\"%d\" width=\"4\" height=\"9\" fill=\"var(--c1)\"/><rect "
      "x=\"108\" "
      "y=\"%d\" width=\"4\" height=\"9\" fill=\"var(--c2)\"/><text x=\"118\" y=\"%d\">pre-trained"
      "</text></svg></div>\n",
      44 * n + 16, 44 * n + 25, 44 * n + 16, 44 * n + 16, 44 * n + 16, 44 * n + 25);
  fputs("<div class=\"card wide\" "
        "style=\"margin-top:16px\"><table><tr><th>kind</th><th>objective</th>"
        "<th class=\"n\">first loss</th><th class=\"n\">last loss</th><th class=\"n\">floor</th>"
        "<th>task</th><th>measure</th><th class=\"n\">scratch</th><th "
        "class=\"n\">pre-trained</th></tr>\n",
        f);
  for (int i = 0; i < n; i++)
    fprintf(f,
            "<tr><td class=\"k%d\">%s</td><td>%s</td><td class=\"n\">%.3f</td><td class=\"n\">%.3f"
            "</td><td class=\"n\">%.3f</td><td>%s</td><td>%s</td><td class=\"n\">%.3f</td><td "
            "class=\"n\">"
            "<strong>%.3f</strong></td></tr>\n",
            t[i].kind[0] == 'e'   ? 0
            : t[i].kind[0] == 'd' ? 1
                                  : 2,
            t[i].kind, t[i].objective, t[i].first, t[i].last, t[i].floor, t[i].task, t[i].measure,
            t[i].scratch, t[i].pretrained);
  fputs("</table></div>\n", f);
}

static void report_map_card(FILE *f, const report_map *m, int color) {
  const double cell = 360.0 / (m->n > 0 ? m->n : 1);
  fputs("<div class=\"card\"><p>", f);
  report_text(f, m->title);
  fputs("</p><svg viewBox=\"0 0 450 450\" role=\"img\">\n<rect x=\"80\" y=\"80\" width=\"360\" "
        "height=\"360\" fill=\"none\" stroke=\"var(--line)\"/>\n", f);
  for (int i = 0; i < m->n; i++) {
    double at = 80 + cell * (i + 0.5) + 4;
    fprintf(f, "<text x=\"75\" y=\"%.1f\" text-anchor=\"end\">", at);
    report_text(f, m->word[i]);
    fprintf(f, "</text><text transform=\"translate(%.1f 75) rotate(-90)\">", at);
    report_text(f, m->word[i]);
    fputs("</text>\n", f);
    for (int j = 0; j < m->n; j++)
      if (m->weight[i][j] >= 0.01f)
        fprintf(f, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"var(--c%d)\" "
                "fill-opacity=\"%.2f\"/>", 80 + cell * j, 80 + cell * i, cell, cell, color,
                (double)m->weight[i][j]);
  }
  fputs("</svg></div>\n", f);
}

static void report_samples(FILE *f, const char *title, const char *text) {
  fputs("<div class=\"card\"><strong>", f);
  report_text(f, title);
  fputs("</strong>\n<pre>", f);
  report_text(f, text);
  fputs("</pre></div>\n", f);
}

/* Ends the page and the file; 0 if all of it was written. */
static int report_end(FILE *f) {
  fputs("</body>\n</html>\n", f);
  int bad = ferror(f);
  return fclose(f) != 0 || bad;
}

#endif /* REPORT_H */
