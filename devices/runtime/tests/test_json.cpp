// JSON from outside: what is refused, and what each getter takes.
#include "json.h"

#include <cmath>
#include <limits>

#include "copies.h"
#include "text.h"

namespace es::copies {
namespace {

std::string repeat(const std::string &part, std::size_t times) {
    std::string made;
    for (std::size_t i = 0; i < times; ++i) made += part;
    return made;
}

std::string why_not(const std::string &text) {
    std::string line;
    const es_status status = status_of([&] { parse_json(text, "it"); }, &line);
    EXPECT_TRUE(status == ES_OK || status == ES_MANIFEST) << text.substr(0, 80);
    return status == ES_OK ? "" : line;
}

TEST(Json, TakesWhatIsJson) {
    for (const char *text : {"{}", "[]", " {\"a\": [1, -2.5e3, true, false, null, \"\\u00e9\"]}\n", "0", "\"\xc3\xa9\""}) {
        EXPECT_EQ(why_not(text), "") << text;
    }
    EXPECT_EQ(parse_json("{\"a\": [1, 2.5]}", "it")["a"][1], 2.5);
}

TEST(Json, RefusesWhatIsNot) {
    for (const char *text : {"", " ", "{", "{}}", "{} x", "{}{}", "{,}", "[1,]", "{\"a\":1,}", "{'a':1}", "nul", "NaN",
                             "Infinity", "-Infinity", "+1", "01", "1.", ".5", "1e", "0x1", "\"\\x\"", "\"\\u12\"",
                             "\"\\ud800\"", "\"a\nb\"", "\"\x01\"", "// c\n{}", "{\"a\" 1}", "[1 2]", "\"open",
                             "\xef\xbb\xbf{}"}) {
        EXPECT_NE(why_not(text).find("no JSON at byte"), std::string::npos) << text;
    }
    for (const std::string &text : {std::string("{}\0", 3), std::string("{}\0 x", 5), std::string("\0{}", 3),
                                    std::string("{\0}", 3), std::string("\"\0\"", 3)}) {
        EXPECT_NE(why_not(text).find("no JSON at byte"), std::string::npos);
    }
}

TEST(Json, RefusesBytesThatAreNoUtf8) {
    for (const char *bytes : {"\x80", "\xff", "\xc0\xaf", "\xe0\x80\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xc3",
                              "\xf8\x88\x80\x80\x80"}) {
        EXPECT_NE(why_not(std::string("\"") + bytes + "\""), "");
    }
}

TEST(Json, RefusesNumbersThatAreNotFinite) {
    EXPECT_EQ(why_not("1e308"), "");
    EXPECT_NE(why_not("1e309").find("not finite"), std::string::npos);
    EXPECT_NE(why_not("[-1e400]").find("not finite"), std::string::npos);
    EXPECT_NE(why_not(repeat("9", 400)).find("not finite"), std::string::npos);
    EXPECT_NE(why_not("0." + repeat("0", 100) + "1e999").find("not finite"), std::string::npos);
}

TEST(Json, RefusesAKeyTwice) {
    EXPECT_EQ(why_not("{\"a\": {\"a\": 1}, \"b\": {\"a\": 1}}"), "");
    for (const char *text : {"{\"a\":1,\"a\":1}", "[{\"b\":{\"x\":1,\"y\":2,\"x\":3}}]", "{\"a\":1,\"\\u0061\":2}",
                             "{\"\":1,\"\":2}", "{\"a\":{},\"b\":[],\"a\":0}"}) {
        EXPECT_NE(why_not(text).find("twice"), std::string::npos) << text;
    }
}

TEST(Json, NestsNoDeeperThanItsLimit) {
    const auto nested = [](std::size_t depth) { return repeat("[", depth) + repeat("]", depth); };
    const auto objects = [](std::size_t depth) { return repeat("{\"a\":", depth) + "1" + repeat("}", depth); };
    EXPECT_EQ(why_not(nested(kJsonDepth)), "");
    EXPECT_EQ(why_not(objects(kJsonDepth)), "");
    EXPECT_NE(why_not(nested(kJsonDepth + 1)).find("nested deeper"), std::string::npos);
    EXPECT_NE(why_not(objects(kJsonDepth + 1)).find("nested deeper"), std::string::npos);
    EXPECT_NE(why_not(repeat("[", 5000000)).find("nested deeper"), std::string::npos);
}

TEST(Json, HasNoMoreValuesThanItsLimit) {
    const auto many = [](std::size_t count) { return "[" + repeat("0,", count - 2) + "0]"; };  // the list is one too
    EXPECT_EQ(why_not(many(kJsonValues)), "");
    EXPECT_NE(why_not(many(kJsonValues + 1)).find("values"), std::string::npos);
}

TEST(Json, HasNoLongerTextThanItsLimit) {
    EXPECT_EQ(why_not("\"" + repeat("x", kJsonString) + "\""), "");
    EXPECT_NE(why_not("\"" + repeat("x", kJsonString + 1) + "\"").find("text of more"), std::string::npos);
    EXPECT_NE(why_not("{\"" + repeat("x", kJsonString + 1) + "\": 1}").find("text of more"), std::string::npos);
}

TEST(Json, CutAnywhereIsRefused) {
    const std::string text = R"({"a": [1, -2.5e+3, true, false, null, "\u00e9\ud83d\ude00\n"], "b": {"c": "\u0000"}})";
    for (std::size_t keep = 0; keep < text.size(); ++keep) EXPECT_NE(why_not(text.substr(0, keep)), "") << keep;
    EXPECT_EQ(why_not(text), "");
}

// Whether `get` takes the JSON text.
template <class Get>
bool takes(const std::string &text, Get get) {
    const Json value = parse_json(text, "it");
    return status_of([&] { get(Node(value, "it")); }) == ES_OK;
}

TEST(Node, WholeNumbers) {
    const auto get = [](const Node &node) { node.integer(-3, 5); };
    for (const char *text : {"-3", "0", "5", "-0"}) EXPECT_TRUE(takes(text, get)) << text;
    for (const char *text : {"-4", "6", "1.0", "1e0", "\"1\"", "true", "null", "[]", "18446744073709551615",
                             "9223372036854775808", "-9223372036854775809", "123456789012345678901234567890"}) {
        EXPECT_FALSE(takes(text, get)) << text;
    }
    const auto all = [](const Node &node) {
        node.integer(std::numeric_limits<std::int64_t>::min(), std::numeric_limits<std::int64_t>::max());
    };
    EXPECT_TRUE(takes("9223372036854775807", all));
    EXPECT_FALSE(takes("9223372036854775808", all));  // must not wrap around to a negative number
    EXPECT_FALSE(takes("18446744073709551615", all));
}

TEST(Node, Numbers) {
    const auto get = [](const Node &node) { node.number(0, 1); };
    for (const char *text : {"0", "1", "0.5", "1e-300", "-0.0"}) EXPECT_TRUE(takes(text, get)) << text;
    for (const char *text : {"-1e-300", "1.0000001", "2", "true", "\"0.5\"", "null"}) EXPECT_FALSE(takes(text, get)) << text;
    const auto above = [](const Node &node) { node.positive(); };
    EXPECT_TRUE(takes("1e-300", above));
    for (const char *text : {"0", "-0.0", "1e-999", "-1", "false"}) EXPECT_FALSE(takes(text, above)) << text;
}

TEST(Node, Texts) {
    const auto get = [](const Node &node) { node.text(); };
    for (const char *text : {"\"a\"", "\"\xc3\xa9 \xe6\xbc\xa2\""}) EXPECT_TRUE(takes(text, get)) << text;
    for (const char *text : {"\"\"", "\"a\\u0000b\"", "\"a\\nb\"", "\"\\u001b[2J\"", "\"\\u007f\"", "\"\\u0085\"", "1"}) {
        EXPECT_FALSE(takes(text, get)) << text;
    }
    EXPECT_TRUE(takes("\"\"", [](const Node &node) { node.text(0); }));
    EXPECT_FALSE(takes("\"" + repeat("x", 1025) + "\"", get));
}

TEST(Node, AnErrorNamesThePathTheValueAndWhatIsPossible) {
    const Json value = parse_json("{\"a\": {\"b\": [1, {\"c\": \"x\\u001b\"}]}}", "manifest.json");
    const Node c = Node(value, "manifest.json").at("a").at("b").list(2, 2)[1].at("c");
    std::string line;
    EXPECT_EQ(status_of([&] { c.integer(1, 2); }, &line), ES_MANIFEST);
    EXPECT_EQ(line, "manifest.json: a.b.1.c: got 'x\\x1b'; possible: a whole number from 1 to 2; "
                    "fix: copy or export the bundle again");
    EXPECT_EQ(status_of([&] { Node(value, "manifest.json").at("a").at("z"); }, &line), ES_MANIFEST);
    EXPECT_EQ(line, "manifest.json: a.z: got nothing; fix: copy or export the bundle again");
    EXPECT_EQ(status_of([&] { c.at("d"); }, &line), ES_MANIFEST);
    EXPECT_EQ(status_of([&] { Node(value, "it").at("a").at("b").list(3, 4); }), ES_MANIFEST);
    EXPECT_EQ(status_of([&] { Node(value, "it").at("a").at("b").members(3); }), ES_MANIFEST);
}

TEST(Text, ErrorLinesCannotBeBroken) {
    EXPECT_EQ(shown("a\nb\x1b[0m\xff"), "'a\\x0ab\\x1b[0m\\xff'");
    EXPECT_EQ(shown("caf\xc3\xa9"), "'caf\xc3\xa9'");
    EXPECT_EQ(shown("a\xe2\x80\xae""b"), "'a\\xe2\\x80\\xae""b'");  // turns the direction of writing
    EXPECT_EQ(shown("a\xe2\x82"), "'a\\xe2\\x82'");               // cut off
    EXPECT_LT(shown(std::string(5000, 'x')).size(), 100u);
    EXPECT_EQ(told("what", "g", "p", "f"), "what: got g; possible: p; fix: f");
    EXPECT_EQ(told("what", "", "", "f"), "what; fix: f");
    EXPECT_EQ(told("what", "", "", ""), "what");
}

}  // namespace
}  // namespace es::copies
