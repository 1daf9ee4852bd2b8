// How a failure travels inside the library: a status and one line that says what, got, possible, fix.
#pragma once

#include <edgeskin.h>

#include <cstdarg>
#include <cstdio>
#include <exception>
#include <string>
#include <utility>

namespace es {

// Never crosses the C boundary: api.cpp turns it into the status and the text of es_last_error.
class Fault : public std::exception {
  public:
    Fault(es_status status, std::string line) : status_(status), line_(std::move(line)) {}
    es_status status() const noexcept { return status_; }
    const char *what() const noexcept override { return line_.c_str(); }

  private:
    es_status status_;
    std::string line_;
};

}  // namespace es
