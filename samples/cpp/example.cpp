// example PACKAGE X.bin Y.bin DELTA: score, choose, train, predict, save. X is float32, Y int64, both in the
// layout of the model.
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include "adabet.hpp"

template <class T> static std::vector<T> read(const std::string &path) {
    std::ifstream file(path, std::ios::binary | std::ios::ate);
    if (!file) throw std::runtime_error(path + " cannot be read");
    std::vector<T> numbers(static_cast<std::size_t>(file.tellg()) / sizeof(T));
    file.seekg(0);
    file.read(reinterpret_cast<char *>(numbers.data()), static_cast<std::streamsize>(numbers.size() * sizeof(T)));
    return numbers;
}

static int run(char **arguments) {
    adabet::Package package(arguments[1]);
    const auto x = read<float>(arguments[2]);
    const auto y = read<std::int64_t>(arguments[3]);
    const adabet::Data data{{x}, y};

    adabet::Fit fit = package.defaults();
    fit.entry = package.choose(package.score(data), fit.batch_size);
    fit.epochs = 2;
    fit.watch = [](const adabet_progress &progress) {
        if (progress.epoch_done) std::printf("epoch %zu: loss %.9g\n", progress.epoch, progress.loss);
        return true;
    };
    adabet::Fitted fitted = package.fit(data, fit);
    if (!fitted.model) throw std::runtime_error(fitted.message);
    const std::vector<float> logits = fitted.model->predict<float>(data);

    const std::size_t classes = logits.size() / y.size();
    std::size_t right = 0;
    for (std::size_t i = 0; i < y.size(); i++) {
        const auto *row = logits.data() + i * classes;
        right += std::max_element(row, row + classes) - row == y[i];
    }
    std::printf("right %zu of %zu\n", right, y.size());
    fitted.model->save_delta(arguments[4]);
    return 0;
}

int main(int count, char **arguments) {
    if (count != 5) {
        std::cerr << "example PACKAGE X.bin Y.bin DELTA\n";
        return 2;
    }
    try {
        return run(arguments);
    } catch (const adabet::Error &error) {
        std::cerr << adabet_code_name(error.code()) << ": " << error.what() << '\n';
    } catch (const std::exception &error) {
        std::cerr << error.what() << '\n';
    }
    return 1;
}
