// Trust before use: each status by its fault.
#include "trust.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <atomic>
#include <iostream>
#include <thread>

#include "copies.h"
#include "folder.h"

namespace es::copies {
namespace {

const char *const kFiles[] = {"manifest.json",         "manifest.sha256",          "lesions.json",
                              "golden/pair-0.npz",     "golden/dermoscopic-1.npz", "model/pair.onnx",
                              "model/dermoscopic.onnx", "reference/pair.onnx",     "reference/dermoscopic.onnx"};

class Trust : public Copied {
  protected:
    // A file of the list with these bytes, so that a bundle can be larger than the tiny one.
    void add(const std::string &name, const std::string &bytes) {
        write(root / name, bytes);
        reseal([&](json &manifest) {
            manifest["files"][name] = {{"sha256", sha256_hex(bytes.data(), bytes.size())}, {"size_bytes", bytes.size()}};
        });
    }
};

TEST_F(Trust, AnIntactBundleOpensAndItsBytesAreThoseOfTheFiles) {
    const auto keep = [](const Manifest &manifest) {
        return std::vector<std::string>{manifest.graphs[kPair].file, manifest.graphs[kPair].file, "reference/pair.onnx"};
    };
    const Trusted made = open_trusted(root, nullptr, false, keep);
    EXPECT_EQ(made.manifest.name, "tiny");
    EXPECT_FALSE(made.lean);
    EXPECT_EQ(made.signed_by, "");
    const std::string manifest = read(root / "manifest.json");
    EXPECT_EQ(made.sha256, sha256_hex(manifest.data(), manifest.size()));
    ASSERT_EQ(made.files.size(), 2u);
    for (const auto &[name, bytes] : made.files) EXPECT_EQ(std::string(bytes.begin(), bytes.end()), read(root / name));
}

TEST_F(Trust, Sha256IsThatOfTheStandard) {
    EXPECT_EQ(sha256_hex("abc", 3), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    EXPECT_EQ(sha256_hex("", 0), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

TEST_F(Trust, TheFolderItselfMayBeReachedByALink) {
    fs::create_directory_symlink(root, folder / "current");
    EXPECT_EQ(status_of([&] { open_trusted(folder / "current", nullptr, false, nullptr); }), ES_OK);
    EXPECT_EQ(status_of([&] { open_trusted((folder / "current").string() + "/", nullptr, false, nullptr); }), ES_OK);
}

TEST_F(Trust, AFileThatIsNotListedCannotBeKept) {
    const auto keep = [](const Manifest &) { return std::vector<std::string>{"model/pair.bin"}; };
    EXPECT_EQ(status_of([&] { open_trusted(root, nullptr, false, keep); }, &line), ES_MANIFEST);
    EXPECT_NE(line.find("model/pair.bin"), std::string::npos);
}

TEST_F(Trust, WhereThereIsNoBundleIsNotFound) {
    const auto at = [&](const fs::path &path) {
        return status_of([&] { open_trusted(path, nullptr, false, nullptr); }, &line);
    };
    EXPECT_EQ(at(folder / "missing"), ES_NOT_FOUND);
    EXPECT_EQ(at(folder / "miss\ning"), ES_NOT_FOUND);
    EXPECT_EQ(at(root / "lesions.json" / "x"), ES_NOT_FOUND);
    EXPECT_EQ(at(""), ES_NOT_FOUND);
    EXPECT_EQ(at(root / "model"), ES_NOT_FOUND);
    EXPECT_NE(line.find("without manifest.json"), std::string::npos);
    fs::create_symlink("nowhere", folder / "dangling");
    EXPECT_EQ(at(folder / "dangling"), ES_NOT_FOUND);
    fs::create_symlink("circle", folder / "circle");
    EXPECT_EQ(at(folder / "circle"), ES_IO);
}

TEST_F(Trust, AFileIsToBeUnpacked) {
    write(folder / "bundle.zip", "PK\3\4");
    EXPECT_EQ(status_of([&] { open_trusted(folder / "bundle.zip", nullptr, false, nullptr); }, &line), ES_FORMAT);
    EXPECT_NE(line.find("unpack it"), std::string::npos);
    ASSERT_EQ(mkfifo((folder / "pipe").c_str(), 0600), 0);
    EXPECT_EQ(status_of([&] { open_trusted(folder / "pipe", nullptr, false, nullptr); }), ES_FORMAT);  // at once
}

TEST_F(Trust, LinksAreRefusedWhereverTheyAre) {
    for (const char *name : kFiles) {
        fs::rename(root / name, folder / "elsewhere");
        fs::create_symlink(folder / "elsewhere", root / name);
        expect(ES_UNSAFE, std::string(name) + "' is a symbolic link");
        fs::remove(root / name);
        fs::rename(folder / "elsewhere", root / name);
    }
    for (const char *name : {"model", "golden", "reference"}) {
        fs::rename(root / name, folder / "elsewhere");
        fs::create_directory_symlink(folder / "elsewhere", root / name);
        expect(ES_UNSAFE, std::string(name) + "' is a symbolic link");
        fs::remove(root / name);
        fs::rename(folder / "elsewhere", root / name);
    }
    for (const char *name : {"extra", "model/extra", "manifest.sig"}) {
        for (const char *target : {"nowhere", ".", "/etc/passwd", "lesions.json"}) {
            fs::create_symlink(target, root / name);
            expect(ES_UNSAFE, "symbolic link");
            fs::remove(root / name);
        }
    }
    expect(ES_OK, "");
}

TEST_F(Trust, PipesAndSocketsAreRefusedAtOnce) {
    for (const char *name : kFiles) {
        fs::rename(root / name, folder / "elsewhere");
        ASSERT_EQ(mkfifo((root / name).c_str(), 0600), 0);
        expect(ES_UNSAFE, "is no regular file");
        fs::remove(root / name);
        fs::rename(folder / "elsewhere", root / name);
    }
    const int opened = socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const std::string path = root / "model" / "s";
    ASSERT_LT(path.size(), sizeof(address.sun_path));
    path.copy(address.sun_path, path.size());
    ASSERT_EQ(bind(opened, reinterpret_cast<sockaddr *>(&address), sizeof(address)), 0);
    expect(ES_UNSAFE, "is no regular file");
    EXPECT_EQ(status_of([&] { Folder(root).read("model/s", 10, nullptr, [](auto *, auto) {}); }), ES_UNSAFE);
    ::close(opened);
}

// What the listing found may be another thing by the time it is read.
TEST_F(Trust, WhatIsReadIsLookedAtAgain) {
    const auto at = [&](const std::string &name) {
        return status_of([&] { Folder(root).read(name, 1 << 20, nullptr, [](auto *, auto) {}); });
    };
    EXPECT_EQ(at("lesions.json"), ES_OK);
    EXPECT_EQ(at("missing"), ES_TAMPERED);
    EXPECT_EQ(at("model"), ES_UNSAFE);
    EXPECT_EQ(at("lesions.json/x"), ES_UNSAFE);
    fs::create_symlink("lesions.json", root / "link");
    EXPECT_EQ(at("link"), ES_UNSAFE);
    fs::create_directory_symlink("model", root / "linked");
    EXPECT_EQ(at("linked/pair.onnx"), ES_UNSAFE);
    ASSERT_EQ(mkfifo((root / "pipe").c_str(), 0600), 0);
    EXPECT_EQ(at("pipe"), ES_UNSAFE);
}

TEST_F(Trust, AFolderInTheNameOfAFileIsNoFile) {
    const auto swapped = [&](const char *name, es_status status, const char *mentions) {
        fs::rename(root / name, folder / "elsewhere");
        fs::create_directory(root / name);
        expect(status, mentions);
        fs::remove(root / name);
        fs::rename(folder / "elsewhere", root / name);
    };
    swapped("manifest.json", ES_NOT_FOUND, "without manifest.json");
    swapped("manifest.sha256", ES_TAMPERED, "no file manifest.sha256");
    swapped("model/pair.onnx", ES_TAMPERED, "no file 'model/pair.onnx'");
    swapped("lesions.json", ES_TAMPERED, "no file 'lesions.json'");
}

TEST_F(Trust, UnlistedFilesAreRefusedAndEmptyFoldersAreNot) {
    for (const char *name : {"extra.txt", "model/.hidden", "golden/deeper/x", "manifest.json~", "bro\nken", "\xff\xfe"}) {
        fs::create_directories((root / name).parent_path());
        write(root / name, "x");
        expect(ES_TAMPERED, "unlisted file");
        fs::remove(root / name);
    }
    fs::create_directories(root / "a" / "b");
    expect(ES_OK, "");
}

TEST_F(Trust, MissingFilesAreNamed) {
    for (const char *name : kFiles) {
        fs::rename(root / name, folder / "elsewhere");
        if (std::string(name) == "manifest.json") {
            expect(ES_NOT_FOUND, name);
        } else {
            expect(ES_TAMPERED, std::string("no file ") + (name[0] == 'm' && name[1] == 'a' ? "" : "'") + name);
        }
        fs::rename(folder / "elsewhere", root / name);
    }
}

TEST_F(Trust, TheWholeReferenceMayBeLeftOut) {
    fs::remove_all(root / "reference");
    expect(ES_OK, "");
    EXPECT_TRUE(opened.lean);
    const auto keep = [](const Manifest &) { return std::vector<std::string>{"reference/pair.onnx", "lesions.json"}; };
    const Trusted made = open_trusted(root, nullptr, false, keep);
    EXPECT_EQ(made.files.count("reference/pair.onnx"), 0u);
    EXPECT_EQ(made.files.count("lesions.json"), 1u);
    fs::remove(root / "model" / "pair.onnx");
    expect(ES_TAMPERED, "no file 'model/pair.onnx'");
}

TEST_F(Trust, ABundleWithoutAReferenceGroupIsNotLean) {
    reseal([](json &manifest) {
        for (auto &entry : manifest["files"]) entry["group"] = "core";
    });
    expect(ES_OK, "");
    EXPECT_FALSE(opened.lean);
    fs::remove_all(root / "reference");
    expect(ES_TAMPERED, "no file 'reference/dermoscopic.onnx'");
}

TEST_F(Trust, SizesAreCheckedBeforeBytesAreRead) {
    for (const char *name : kFiles) {
        if (std::string(name) == "manifest.json") continue;
        const std::string bytes = read(root / name);
        write(root / name, bytes + "x");
        expect(ES_TAMPERED, name[0] == 'm' && name[1] == 'a' ? "manifest.json" : "more than");
        write(root / name, bytes.substr(1));
        expect(ES_TAMPERED, "tampered");
        write(root / name, "");
        expect(ES_TAMPERED, "tampered");
        write(root / name, bytes);
    }
    fs::resize_file(root / "lesions.json", std::uintmax_t{1} << 40);  // a sparse terabyte
    expect(ES_TAMPERED, "more than 334 bytes");
}

TEST_F(Trust, OversizedHeadsAreRefused) {
    write(root / "manifest.sig", std::string(4097, 'x'));
    expect(ES_TAMPERED, "manifest.sig: more than 4096 bytes");
    write(root / "manifest.sig", std::string(4096, 'x'));
    expect(ES_OK, "");  // without a key to trust it is not looked at
    fs::remove(root / "manifest.sig");
    write(root / "manifest.json", std::string(kManifestLimit + 1, ' '));
    expect(ES_MANIFEST, "too large");
    fs::resize_file(root / "manifest.json", std::uintmax_t{1} << 40);
    expect(ES_MANIFEST, "too large");
}

TEST_F(Trust, TooManyFilesAndFoldersInFoldersAreRefused) {
    fs::create_directory(root / "many");
    for (int i = 0; i < 20001; ++i) write(root / "many" / std::to_string(i), "");
    expect(ES_TAMPERED, "more than 20000");
    fs::remove_all(root / "many");
    fs::path deep = root;
    for (int i = 0; i < 150; ++i) deep /= "d";
    fs::create_directories(deep);
    expect(ES_UNSAFE, "nested too deep");
}

TEST_F(Trust, WhatTheSystemRefusesIsNamed) {
    const uid_t nobody = 65534, before = geteuid();
    if (before == 0) {  // root may read everything: be someone else meanwhile
        for (const auto &entry : fs::recursive_directory_iterator(folder)) {
            ASSERT_EQ(lchown(entry.path().c_str(), nobody, nobody), 0);
        }
        ASSERT_EQ(lchown(folder.c_str(), nobody, nobody), 0);
        ASSERT_EQ(seteuid(nobody), 0);
    }
    for (const fs::path &closed : {root / "lesions.json", root / "model", root}) {
        const fs::perms open = fs::status(closed).permissions();
        fs::permissions(closed, fs::perms::none);
        expect(ES_IO, closed == root ? "bundle" : closed.filename().string());
        fs::permissions(closed, open);
    }
    expect(ES_OK, "");
    ASSERT_EQ(seteuid(before), 0);
}

TEST_F(Trust, TheSealHasOneSpelling) {
    const std::string seal = read(root / "manifest.sha256");
    ASSERT_EQ(seal.size(), 80u);
    std::string capitals = seal;
    for (char &c : capitals) c = c >= 'a' && c <= 'f' ? static_cast<char>(c - 32) : c;
    for (const std::string &other : {seal.substr(0, 79), seal + "\n", " " + seal, seal.substr(0, 79) + "\v", capitals,
                                     std::string(), std::string(80, '0'), std::string(1 << 20, 'x')}) {
        write(root / "manifest.sha256", other);
        expect(ES_TAMPERED, "its hash is not the one in manifest.sha256");
    }
}

TEST_F(Trust, TheFirstFaultInOrderIsReported) {
    json manifest = json::parse(read(root / "manifest.json"));
    const auto altered = [&](const char *pointer, const json &value) {
        json other = manifest;
        other[json::json_pointer(pointer)] = value;
        return other.dump(2);
    };
    write(root / "manifest.json", "{");
    expect(ES_MANIFEST, "cannot be read");
    write(root / "manifest.json", altered("/format_version", 2));
    expect(ES_FORMAT, "newer");
    write(root / "manifest.json", altered("/preprocess/width", 1));
    expect(ES_TAMPERED, "its hash is not the one");
    put_manifest(altered("/preprocess/width", 1));
    expect(ES_MANIFEST, "preprocess.width");
    EXPECT_NE(line.find(root.string()), std::string::npos);
    write(root / "extra", "x");
    expect(ES_MANIFEST, "preprocess.width");
    put_manifest(manifest.dump());
    fs::remove(root / "lesions.json");
    write(root / "model" / "pair.onnx", "x");
    expect(ES_TAMPERED, "unlisted");
    fs::remove(root / "extra");
    expect(ES_TAMPERED, "no file 'lesions.json'");
}

TEST_F(Trust, OfManyDamagedFilesTheFirstIsNamedWhicheverThreadFindsIt) {
    std::string big(3 << 20, 'x');
    for (const char *name : {"a1", "a2", "z"}) add(name, big);
    expect(ES_OK, "");
    big[1 << 20] = 'y';
    for (const char *name : {"a1", "a2", "z"}) write(root / name, big);
    const std::string small = read(root / "lesions.json");
    write(root / "lesions.json", "?" + small.substr(1));
    for (int i = 0; i < 10; ++i) expect(ES_TAMPERED, "got a1: SHA-256");
    write(root / "a1", std::string(3 << 20, 'x'));
    for (int i = 0; i < 10; ++i) expect(ES_TAMPERED, "got a2: SHA-256");
}

TEST_F(Trust, AnotherProcessThatChangesFilesGetsNothingUnverifiedThrough) {
    const std::string good = read(root / "model" / "pair.onnx");
    const std::string bad(good.size(), 'x');
    std::atomic<bool> stop{false};
    std::thread other([&] {
        const fs::path file = root / "model" / "pair.onnx";
        for (int i = 0; !stop; ++i) {
            std::error_code ignored;
            if (i % 3 == 0) {
                std::ofstream(folder / "next", std::ios::binary) << (i % 2 ? good : bad);
                fs::rename(folder / "next", file, ignored);
            } else if (i % 3 == 1) {
                std::ofstream(file, std::ios::binary | std::ios::in) << bad;  // in place, in the middle of a reading
                std::ofstream(file, std::ios::binary | std::ios::in) << good;
            } else {
                fs::create_symlink("/etc/passwd", folder / "link", ignored);
                fs::rename(folder / "link", file, ignored);
                std::ofstream(folder / "next", std::ios::binary) << good;
                fs::rename(folder / "next", file, ignored);
            }
        }
    });
    const auto keep = [](const Manifest &) { return std::vector<std::string>{"model/pair.onnx"}; };
    int opened_well = 0;
    for (int i = 0; i < 300; ++i) {
        try {
            const Trusted made = open_trusted(root, nullptr, false, keep);
            const Bytes &bytes = made.files.at("model/pair.onnx");
            EXPECT_EQ(std::string(bytes.begin(), bytes.end()), good);
            ++opened_well;
        } catch (const Fault &fault) {
            EXPECT_TRUE(fault.status() == ES_TAMPERED || fault.status() == ES_UNSAFE) << fault.what();
        }
    }
    stop = true;
    other.join();
    std::cout << opened_well << " of 300 opened between the changes\n";
}

}  // namespace
}  // namespace es::copies
