// Who made a bundle: signatures that hold, and every one that does not.
#include "copies.h"

namespace es::copies {
namespace {

using Signed = Copied;

TEST_F(Signed, ASignedBundleOpensWithItsKey) {
    const Pair pair(1);
    sign(pair);
    expect(ES_OK, "", &pair.open);
    EXPECT_EQ(opened.signed_by, sha256_hex(pair.open.data(), pair.open.size()));
    EXPECT_EQ(open(&pair.open, true), ES_OK);
    expect(ES_OK, "");  // and without any key, unverified
    EXPECT_EQ(opened.signed_by, "");
}

TEST_F(Signed, WhatIsNotSignedIsRefusedWhereItMustBe) {
    const Pair pair(1);
    expect(ES_SIGNATURE, "no file manifest.sig", &pair.open);
    EXPECT_EQ(open(nullptr, true), ES_SIGNATURE);
    EXPECT_NE(line.find("no key"), std::string::npos);
    sign(pair);
    EXPECT_EQ(open(nullptr, true), ES_SIGNATURE);  // a signature that cannot be checked is none
}

TEST_F(Signed, AnotherKeyIsRefused) {
    const Pair ours(1), theirs(2);
    sign(theirs);
    expect(ES_SIGNATURE, "another key", &ours.open);
    // A thief signs with a key of his own and claims ours.
    std::string text = signature(theirs, read(root / "manifest.json"));
    text.replace(8, 44, base64(ours.open.data(), ours.open.size()));
    write(root / "manifest.sig", text);
    expect(ES_SIGNATURE, "does not hold", &ours.open);
}

TEST_F(Signed, AManifestThatChangedAfterItWasSignedIsRefused) {
    const Pair pair(1);
    sign(pair);
    reseal([](json &manifest) { manifest["thresholds"]["pair"]["value"] = 0.9; });
    expect(ES_SIGNATURE, "does not hold", &pair.open);
    expect(ES_OK, "");
}

TEST_F(Signed, TheSignatureIsCheckedBeforeFieldsAndFiles) {
    const Pair ours(1), theirs(2);
    reseal([](json &manifest) { manifest["preprocess"]["width"] = 1; });
    sign(theirs);
    expect(ES_SIGNATURE, "another key", &ours.open);
    sign(ours);
    expect(ES_MANIFEST, "preprocess.width", &ours.open);
    fs::copy(tiny() / "manifest.json", root / "manifest.json", fs::copy_options::overwrite_existing);
    fs::copy(tiny() / "manifest.sha256", root / "manifest.sha256", fs::copy_options::overwrite_existing);
    sign(theirs);
    write(root / "lesions.json", "x");
    expect(ES_SIGNATURE, "another key", &ours.open);
    sign(ours);
    expect(ES_TAMPERED, "lesions.json", &ours.open);
}

TEST_F(Signed, ASignatureHasOneSpelling) {
    const Pair pair(1);
    sign(pair);
    const std::string good = read(root / "manifest.sig");
    ASSERT_EQ(good.size(), 142u);
    const auto with = [&](std::size_t at, const std::string &part) {
        std::string made = good;
        return made.replace(at, part.size(), part);
    };
    // The last sign before the padding has spare bits: A and B stand for the same bytes, and only one is right.
    std::string spare_key = good, spare_value = good;
    const std::string alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    spare_key[50] = alphabet[alphabet.find(good[50]) ^ 1];
    spare_value[138] = alphabet[alphabet.find(good[138]) ^ 1];
    for (const std::string &other :
         {std::string(), good.substr(0, 141), good + "\n", good + " ", "\xef\xbb\xbf" + good, " " + good,
          with(0, "Ed25519 "), with(7, "\t"), with(52, "\r"), with(52, " "), with(141, "\r"), with(20, "-"), with(20, "\n"),
          with(20, std::string(1, '\0')), with(51, "A"), with(139, "A"), with(140, "A"), spare_key, spare_value,
          good.substr(0, 52) + "\r\n" + good.substr(53, 88) + "\n", std::string(142, 'A'), std::string(142, '='),
          good.substr(53) + good.substr(0, 53)}) {
        write(root / "manifest.sig", other);
        expect(ES_SIGNATURE, "cannot be read", &pair.open);
    }
    write(root / "manifest.sig", good);
    expect(ES_OK, "", &pair.open);
}

TEST_F(Signed, AManifestMayNotListItsSignature) {
    const Pair pair(1);
    reseal([](json &manifest) { manifest["files"]["manifest.sig"] = manifest["files"]["lesions.json"]; });
    sign(pair);
    expect(ES_UNSAFE, "manifest.sig", &pair.open);
}

}  // namespace
}  // namespace es::copies
