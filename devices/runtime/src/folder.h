// A folder that is opened once. Whatever lies in it is reached from there, step by step, and never through a link.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace es {

class Fd {
  public:
    explicit Fd(int number) : number_(number) {}
    ~Fd();
    Fd(Fd &&other) noexcept : number_(std::exchange(other.number_, -1)) {}
    Fd &operator=(Fd &&other) noexcept {
        std::swap(number_, other.number_);
        return *this;
    }
    int number() const { return number_; }

  private:
    int number_;
};

class Folder {
  public:
    // Throws Fault: ES_NOT_FOUND, ES_FORMAT where it is no folder, ES_IO.
    explicit Folder(const std::string &path);

    // Names of all files, sorted. Throws Fault ES_UNSAFE where a link, a pipe or a device is among them, ES_TAMPERED
    // where there are more than a bundle can have, ES_IO.
    std::vector<std::string> listing() const;

    // Give the bytes of a regular file to `sink`, piece by piece, and return how many there were. It stops behind
    // `most` bytes: what it returns is then more than `most`. The file is opened once, and `sized` is told its size
    // first. Throws Fault: ES_TAMPERED where there is no such file, ES_UNSAFE where it is none, ES_IO.
    std::uint64_t read(const std::string &name, std::uint64_t most, const std::function<void(std::uint64_t)> &sized,
                       const std::function<void(const std::uint8_t *, std::size_t)> &sink) const;

    const std::string &path() const { return path_; }

  private:
    Fd beneath(const std::string &name, int flags) const;
    void list(const std::string &below, std::vector<std::string> &files, std::vector<std::string> &folders) const;

    std::string path_;
    Fd root_;
};

}  // namespace es
