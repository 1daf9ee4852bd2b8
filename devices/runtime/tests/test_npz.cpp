// Golden cases: numpy's archive as it is, and every way in which it can be broken.
#include "npz.h"

#include <cstring>
#include <limits>

#include "copies.h"

namespace es::copies {
namespace {

Golden golden(const std::string &bytes) {
    return read_golden(reinterpret_cast<const std::uint8_t *>(bytes.data()), bytes.size());
}

es_status status(const std::string &bytes) {
    return status_of([&] { golden(bytes); });
}

void number(std::string &to, std::uint64_t value, int bytes) {
    for (int i = 0; i < bytes; ++i, value >>= 8) to += static_cast<char>(value);
}

std::string npy(const std::string &head, const std::string &items, int version = 1) {
    std::string made = "\x93NUMPY";
    made += static_cast<char>(version);
    made += '\0';
    number(made, head.size(), version == 1 ? 2 : 4);
    return made + head + items;
}

std::string head(const std::string &type, const std::string &shape, const std::string &order = "False") {
    return "{'descr': '" + type + "', 'fortran_order': " + order + ", 'shape': " + shape + ", }    \n";
}

struct Member {
    std::string name, bytes;
    int method = 0, flags = 0;
};

// A stored archive, as zipfile writes it.
std::string zip(const std::vector<Member> &members) {
    std::string made, directory;
    for (const Member &m : members) {
        const std::size_t at = made.size();
        made += std::string("PK\3\4") + std::string("\x14\0", 2);
        number(made, static_cast<std::uint64_t>(m.flags), 2);
        number(made, static_cast<std::uint64_t>(m.method), 2);
        number(made, 0, 8);  // time, date, checksum
        number(made, m.bytes.size(), 4);
        number(made, m.bytes.size(), 4);
        number(made, m.name.size(), 2);
        number(made, 0, 2);
        made += m.name + m.bytes;
        directory += std::string("PK\1\2") + std::string("\x14\0\x14\0", 4);
        number(directory, static_cast<std::uint64_t>(m.flags), 2);
        number(directory, static_cast<std::uint64_t>(m.method), 2);
        number(directory, 0, 8);
        number(directory, m.bytes.size(), 4);
        number(directory, m.bytes.size(), 4);
        number(directory, m.name.size(), 2);
        number(directory, 0, 12);  // extra, comment, disk, attributes
        number(directory, at, 4);
        directory += m.name;
    }
    const std::size_t at = made.size();
    made += directory + "PK\5\6";
    number(made, 0, 4);
    number(made, members.size(), 2);
    number(made, members.size(), 2);
    number(made, directory.size(), 4);
    number(made, at, 4);
    number(made, 0, 2);
    return made;
}

std::string floats(std::vector<float> values) {
    std::string made(values.size() * sizeof(float), '\0');
    std::memcpy(made.data(), values.data(), made.size());
    return made;
}

const std::string kFrames = npy(head("|u1", "(1, 1, 2, 3)"), "abcdef");
const std::string kLogits = npy(head("<f4", "(1, 2)"), floats({1.5f, -2}));

es_status of(const std::string &frames, const std::string &logits) {
    return status(zip({{"frames.npy", frames}, {"logits.npy", logits}}));
}

TEST(Npz, ReadsWhatNumpyWrote) {
    for (const char *name : {"pair-0", "pair-1", "dermoscopic-0", "dermoscopic-1"}) {
        const Golden made = golden(read(tiny() / "golden" / (std::string(name) + ".npz")));
        EXPECT_EQ(made.images, name[0] == 'p' ? 2 : 1);
        EXPECT_EQ(made.height, 32);
        EXPECT_EQ(made.width, 32);
        EXPECT_EQ(made.logit_count, 24);
        EXPECT_EQ(made.frames.size(), static_cast<std::size_t>(made.images) * 32 * 32 * 3);
        EXPECT_EQ(made.logits.size(), static_cast<std::size_t>(made.images) * 24);
    }
    // As numpy.load shows them.
    const Golden made = golden(read(tiny() / "golden" / "dermoscopic-0.npz"));
    EXPECT_EQ((std::vector<std::uint8_t>(made.frames.begin(), made.frames.begin() + 6)),
              (std::vector<std::uint8_t>{211, 179, 159, 210, 171, 151}));
    EXPECT_FLOAT_EQ(made.logits[0], 3.1025968f);
    EXPECT_FLOAT_EQ(made.logits[23], -12.410388f);
}

TEST(Npz, TwoImagesMayHaveThreeRowsOfLogits) {
    const auto with = [](const char *images, const char *rows, std::size_t count) {
        const std::string frames(images[0] == '2' ? 6 : 3, 'a');
        return zip({{"frames.npy", npy(head("|u1", std::string("(") + images + ", 1, 1, 3)"), frames)},
                    {"logits.npy", npy(head("<f4", std::string("(") + rows + ", 2)"), std::string(count * 8, '\0'))}});
    };
    EXPECT_EQ(golden(with("2", "3", 3)).rows, 3);
    EXPECT_EQ(golden(with("2", "3", 3)).logits.size(), 6u);
    EXPECT_EQ(golden(with("2", "2", 2)).rows, 2);
    EXPECT_EQ(status(with("2", "1", 1)), ES_TAMPERED);
    EXPECT_EQ(status(with("2", "4", 4)), ES_TAMPERED);
    EXPECT_EQ(status(with("1", "3", 3)), ES_TAMPERED);
    EXPECT_EQ(status(with("1", "2", 2)), ES_TAMPERED);
}

TEST(Npz, ReadsTheSmallest) {
    const Golden made = golden(zip({{"frames.npy", kFrames}, {"logits.npy", kLogits}}));
    EXPECT_EQ(made.images, 1);
    EXPECT_EQ(made.height, 1);
    EXPECT_EQ(made.width, 2);
    EXPECT_EQ(std::string(made.frames.begin(), made.frames.end()), "abcdef");
    EXPECT_EQ(made.logits, (std::vector<float>{1.5f, -2}));
    EXPECT_EQ(status(zip({{"logits.npy", kLogits}, {"frames.npy", kFrames}})), ES_OK);
    EXPECT_EQ(of(npy(head("|u1", "(1, 1, 2, 3)"), "abcdef", 2), kLogits), ES_OK);  // version 2: a longer length
}

TEST(Npz, CutAnywhereIsRefused) {
    const std::string bytes = read(tiny() / "golden" / "dermoscopic-0.npz");
    for (std::size_t keep = 0; keep < bytes.size(); ++keep) EXPECT_EQ(status(bytes.substr(0, keep)), ES_TAMPERED) << keep;
    for (std::size_t drop = 1; drop < bytes.size(); ++drop) EXPECT_EQ(status(bytes.substr(drop)), ES_TAMPERED) << drop;
    EXPECT_EQ(status(bytes + "x"), ES_TAMPERED);
}

TEST(Npz, EveryByteOfTheHeadsMayBeAnything) {
    const std::string bytes = zip({{"frames.npy", kFrames}, {"logits.npy", kLogits}});
    for (std::size_t at = 0; at < bytes.size(); ++at) {
        for (int value = 0; value < 256; ++value) {
            std::string other = bytes;
            other[at] = static_cast<char>(value);
            const es_status found = status(other);
            ASSERT_TRUE(found == ES_OK || found == ES_TAMPERED) << at << " " << value;
        }
    }
}

TEST(Npz, RefusesOtherArchives) {
    EXPECT_EQ(status(""), ES_TAMPERED);
    EXPECT_EQ(status(std::string(22, '\0')), ES_TAMPERED);
    EXPECT_EQ(status(zip({})), ES_TAMPERED);
    EXPECT_EQ(status(zip({{"frames.npy", kFrames}})), ES_TAMPERED);
    EXPECT_EQ(status(zip({{"frames.npy", kFrames}, {"logits", kLogits}})), ES_TAMPERED);
    EXPECT_EQ(status(zip({{"frames.npy", kFrames}, {"frames.npy", kFrames}})), ES_TAMPERED);
    EXPECT_EQ(status(zip({{"frames.npy", kFrames}, {"logits.npy", kLogits}, {"x.npy", kLogits}})), ES_TAMPERED);
    EXPECT_EQ(status(zip({{"frames.npy", kFrames, 8}, {"logits.npy", kLogits}})), ES_TAMPERED);      // deflated
    EXPECT_EQ(status(zip({{"frames.npy", kFrames}, {"logits.npy", kLogits, 0, 1}})), ES_TAMPERED);   // encrypted
    EXPECT_EQ(status(zip({{"frames.npy", kFrames}, {"logits.npy", kLogits, 0, 8}})), ES_OK);
}

TEST(Npz, RefusesOtherArrays) {
    EXPECT_EQ(of("", kLogits), ES_TAMPERED);
    EXPECT_EQ(of(kLogits, kLogits), ES_TAMPERED);
    EXPECT_EQ(of(kFrames, kFrames), ES_TAMPERED);
    EXPECT_EQ(of(npy(head("|i1", "(1, 1, 2, 3)"), "abcdef"), kLogits), ES_TAMPERED);
    EXPECT_EQ(of(npy(head("|u1", "(1, 1, 2, 3)", "True"), "abcdef"), kLogits), ES_TAMPERED);
    EXPECT_EQ(of(npy(head("|u1", "(1, 1, 2, 3)"), "abcdef", 3), kLogits), ES_TAMPERED);
    EXPECT_EQ(of(npy("{}", "abcdef"), kLogits), ES_TAMPERED);
    EXPECT_EQ(of(npy("", ""), kLogits), ES_TAMPERED);
    for (const char *shape : {"(1, 1, 2, 3", "()", "(,)", "(1, 1, 2, 4)", "(1, 1, 2)", "(1, 1, 2, 3, 1)", "(1, 1, 3, 2)",
                              "(1, 1, 2, -3)", "(1,1,2,3)", "(1, 1, 2, 3,)", "(0, 1, 2, 3)", "(1, 01, 2, 3)", "(6,)",
                              "(1, 1, 2, 3L)", "(1, 1, 99999999, 3)", "(99999999, 99999999, 99999999, 99999999)",
                              "(1, 1, 18446744073709551618, 3)"}) {
        EXPECT_EQ(of(npy(head("|u1", shape), "abcdef"), kLogits), ES_TAMPERED) << shape;
    }
    EXPECT_EQ(of(npy(head("|u1", "(1, 1, 2, 3)"), "abcdefg"), kLogits), ES_TAMPERED);
    EXPECT_EQ(of(npy(head("|u1", "(1, 1, 2, 3)"), "abcde"), kLogits), ES_TAMPERED);
    EXPECT_EQ(of(npy(head("|u1", "(3, 1, 1, 3)"), "abcdefghi"), kLogits), ES_TAMPERED);  // three images
    EXPECT_EQ(of(kFrames, npy(head("<f8", "(1, 1)"), std::string(8, '\0'))), ES_TAMPERED);
    EXPECT_EQ(of(kFrames, npy(head(">f4", "(1, 1)"), std::string(4, '\0'))), ES_TAMPERED);
    EXPECT_EQ(of(kFrames, npy(head("<f4", "(2, 1)"), std::string(8, '\0'))), ES_TAMPERED);  // of two images
    EXPECT_EQ(of(kFrames, npy(head("<f4", "(2,)"), std::string(8, '\0'))), ES_TAMPERED);
    EXPECT_EQ(of(kFrames, npy(head("<f4", "(1, 256)"), std::string(1024, '\0'))), ES_OK);
    EXPECT_EQ(of(kFrames, npy(head("<f4", "(1, 257)"), std::string(1028, '\0'))), ES_TAMPERED);
    EXPECT_EQ(of(kFrames, npy(head("<f4", "(1, 1)"), floats({std::numeric_limits<float>::quiet_NaN()}))), ES_TAMPERED);
    EXPECT_EQ(of(kFrames, npy(head("<f4", "(1, 1)"), floats({std::numeric_limits<float>::infinity()}))), ES_TAMPERED);
}

}  // namespace
}  // namespace es::copies
