// A folder that is opened once. Whatever lies in it is reached from there, step by step, and never through a link.
#include "folder.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>

#include "fault.h"
#include "text.h"

namespace es {
namespace {

constexpr std::size_t kEntries = 20000;  // files and folders; a bundle lists at most 10,000 files
constexpr int kDepth = 100;              // folders in folders: a file's name has at most 200 characters
constexpr std::size_t kPiece = 256 << 10;
constexpr char kReadable[] = "let this program read every file of the bundle";

std::string why(int error) {
    std::array<char, 128> buffer{};
    return strerror_r(error, buffer.data(), buffer.size());  // the GNU form: the text may lie elsewhere
}

[[noreturn]] void refused(const std::string &path, const std::string &name, int error) {
    if (error == ENOENT) {
        throw Fault(ES_TAMPERED, told("incomplete bundle " + shown(path, 300), "no file " + shown(name), "",
                                      "copy or export the bundle again"));
    }
    if (error == ELOOP || error == ENOTDIR || error == ENXIO) {  // ENXIO: a socket
        throw Fault(ES_UNSAFE, told("unsafe bundle " + shown(path, 300),
                                    shown(name) + " is reached by a link or is no regular file", "",
                                    "put the file itself there"));
    }
    throw Fault(ES_IO, told("cannot read " + shown(path + "/" + name, 300), why(error), "", kReadable));
}

Fd open_root(const std::string &path) {
    const int opened = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (opened >= 0) return Fd(opened);
    const int error = errno;
    struct stat found {};
    if (error == ENOTDIR && ::stat(path.c_str(), &found) == 0) {
        throw Fault(ES_FORMAT, told("a bundle is opened as a folder", shown(path, 300) + ", a file", "",
                                    "unpack it there: unzip FILE -d FOLDER"));
    }
    if (error == ENOENT || error == ENOTDIR) {
        throw Fault(ES_NOT_FOUND, told("no such bundle", shown(path, 300), "", "check the path"));
    }
    throw Fault(ES_IO, told("cannot read " + shown(path, 300), why(error), "", kReadable));
}

}  // namespace

Fd::~Fd() {
    if (number_ >= 0) ::close(number_);
}

Folder::Folder(const std::string &path) : path_(path), root_(open_root(path)) {}

Fd Folder::beneath(const std::string &name, int flags) const {
    Fd folder(-1);
    std::size_t from = 0;
    while (true) {
        const int at = folder.number() < 0 ? root_.number() : folder.number();
        const std::size_t end = std::min(name.find('/', from), name.size());
        const std::string step = name.substr(from, end - from);
        const bool last = end == name.size();
        // O_NONBLOCK: a pipe without a writer must not hold us up. It says nothing to a regular file.
        const int how = O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | (last ? flags : O_DIRECTORY);
        Fd next(::openat(at, step.c_str(), how));
        if (next.number() < 0) refused(path_, name, errno);
        if (last) return next;
        folder = std::move(next);
        from = end + 1;
    }
}

void Folder::list(const std::string &below, std::vector<std::string> &files, std::vector<std::string> &folders) const {
    Fd here = beneath(below.empty() ? "." : below, O_DIRECTORY);
    const int number = ::dup(here.number());  // closedir closes the one it is given
    DIR *opened = number < 0 ? nullptr : ::fdopendir(number);
    if (!opened) {
        const int error = errno;
        if (number >= 0) ::close(number);
        refused(path_, below, error);
    }
    const std::unique_ptr<DIR, int (*)(DIR *)> closing(opened, ::closedir);
    while (true) {
        errno = 0;
        const dirent *entry = ::readdir(opened);
        if (!entry) {
            if (errno != 0) refused(path_, below, errno);
            return;
        }
        const std::string step = entry->d_name;
        if (step == "." || step == "..") continue;
        const std::string name = below.empty() ? step : below + "/" + step;
        struct stat found {};
        if (::fstatat(here.number(), step.c_str(), &found, AT_SYMLINK_NOFOLLOW) != 0) refused(path_, name, errno);
        if (!S_ISREG(found.st_mode) && !S_ISDIR(found.st_mode)) {
            const std::string what = S_ISLNK(found.st_mode) ? " is a symbolic link" : " is no regular file";
            throw Fault(ES_UNSAFE, told("unsafe bundle " + shown(path_, 300), shown(name) + what, "",
                                        "put the file itself there"));
        }
        if (files.size() + folders.size() >= kEntries) {
            throw Fault(ES_TAMPERED, told("unlisted files in bundle " + shown(path_, 300),
                                          "more than " + std::to_string(kEntries) + " files and folders", "",
                                          "copy or export the bundle again"));
        }
        (S_ISDIR(found.st_mode) ? folders : files).push_back(name);
    }
}

std::vector<std::string> Folder::listing() const {
    std::vector<std::string> files, folders;
    list("", files, folders);
    for (std::size_t next = 0; next < folders.size(); ++next) {
        const std::string name = folders[next];  // a copy: list() moves the vector's memory
        if (std::count(name.begin(), name.end(), '/') >= kDepth) {
            throw Fault(ES_UNSAFE, told("unsafe bundle " + shown(path_, 300), "folders nested too deep", "",
                                        "copy or export the bundle again"));
        }
        list(name, files, folders);
    }
    std::sort(files.begin(), files.end());
    return files;
}

std::uint64_t Folder::read(const std::string &name, std::uint64_t most,
                           const std::function<void(std::uint64_t)> &sized,
                           const std::function<void(const std::uint8_t *, std::size_t)> &sink) const {
    const Fd file = beneath(name, 0);
    struct stat found {};
    if (::fstat(file.number(), &found) != 0) refused(path_, name, errno);
    if (!S_ISREG(found.st_mode)) refused(path_, name, ENOTDIR);
    if (sized) sized(static_cast<std::uint64_t>(found.st_size));
    std::vector<std::uint8_t> piece(kPiece);
    std::uint64_t total = 0;
    while (total <= most) {
        const ssize_t got = ::read(file.number(), piece.data(), piece.size());
        if (got == 0) break;
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) refused(path_, name, errno);
        sink(piece.data(), static_cast<std::size_t>(got));
        total += static_cast<std::uint64_t>(got);
    }
    return total;
}

}  // namespace es
