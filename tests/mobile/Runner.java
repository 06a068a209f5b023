import dev.adabet.onnx.*;
import dev.adabet.sample.Main;
import java.io.File;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Scanner;

/**
 * One JVM for many tests: each line of standard input is a job, with tabs between arguments; its output ends with a
 * line "= STATUS". Kotlin's internal declarations are public for Java, which this uses.
 */
final class Runner {
  public static void main(String[] given) {
    System.setErr(System.out);
    Scanner jobs = new Scanner(System.in);
    while (jobs.hasNextLine()) {
      String[] words = jobs.nextLine().split("\t");
      int status = 0;
      try {
        switch (words[0]) {
          case "main" -> status = Main.run(List.of(words).subList(1, words.length).toArray(new String[0]));
          case "betti" -> betti(Path.of(words[1]));
          case "menu" -> menu(Path.of(words[1]));
          case "random" -> random();
          case "try" -> tryAll(words);
          default -> throw new IllegalArgumentException(words[0]);
        }
      } catch (Throwable error) {
        error.printStackTrace();
        status = 2;
      }
      System.out.println("= " + status);
      System.out.flush();
    }
  }

  private static ByteBuffer read(Path file) throws IOException {
    return ByteBuffer.wrap(Files.readAllBytes(file)).order(ByteOrder.LITTLE_ENDIAN);
  }

  /** The number of each matrix. */
  private static void betti(Path path) throws IOException {
    ByteBuffer file = read(path);
    file.getInt();
    for (int left = file.getInt(); left > 0; left--) {
      int points = file.getShort(), bytes = file.getShort();
      file.getInt();
      double[] distance = new double[points * points];
      int[] all = new int[points];
      for (int i = 0; i < points; i++) {
        all[i] = i;
        for (int j = i + 1; j < points; j++) {
          double length = bytes == 8 ? file.getDouble() : file.getFloat();
          distance[i * points + j] = length;
          distance[j * points + i] = length;
        }
      }
      System.out.println(new Loops(distance, points).count(all));
    }
  }

  /** The choice of each case and its memory, or the message. */
  private static void menu(Path path) throws IOException {
    Map<?, ?> file = (Map<?, ?>) Json.Companion.parse(read(path), "menu");
    for (Object each : (List<?>) file.get("cases")) {
      Map<?, ?> map = (Map<?, ?>) each;
      List<Entry> entries = new ArrayList<>();
      for (Object entry : (List<?>) map.get("entries")) entries.add(entry((Map<?, ?>) entry));
      @SuppressWarnings("unchecked")
      Map<String, Double> scores = (Map<String, Double>) map.get("scores");
      scores.replaceAll((layer, score) -> ((Number) (Object) score).doubleValue());
      try {
        int batch = ((Long) map.get("batch")).intValue();
        Choice choice = ScoresKt.chosen(entries, new Scores(scores), batch, (Long) map.get("limit"));
        System.out.println("chosen\t" + choice.getEntry().getName() + "\t" + choice.getBytes());
      } catch (DeviceException error) {
        System.out.println(error.getProblem().getLabel() + "\t" + error.getMessage());
      }
    }
  }

  private static Entry entry(Map<?, ?> map) {
    List<kotlin.Pair<Integer, Long>> memory = new ArrayList<>();
    for (Object pair : (List<?>) map.get("memory"))
      memory.add(new kotlin.Pair<>(((Long) ((List<?>) pair).get(0)).intValue(), (Long) ((List<?>) pair).get(1)));
    List<String> layers = ((List<?>) map.get("layers")).stream().map(layer -> (String) layer).toList();
    EntryFiles files = new EntryFiles(null, "", "", "", "", "");
    List<Tensor> tensors = List.of(new Tensor("t", Kind.PARAMETER, "i", "o", List.of(1), 0, 4));
    Names names = new Names("", "", "", "", "");
    Port logits = new Port("", DType.FLOAT32, List.of(1));
    return new Entry((String) map.get("name"), layers, 1, 4, files, List.of(), names, logits, null, tensors, memory);
  }

  private static void random() {
    Random random = new Random(0, 1);
    for (int i = 0; i < 4; i++) System.out.println(Integer.toUnsignedString(random.next()));
    System.out.println(java.util.Arrays.toString(RandomKt.shuffled(50, 0xFFFFFFFFL, 9)));
  }

  /** try X Y OUT FOLDER...: everything that can be done with each package until something fails; a line for each. */
  private static void tryAll(String[] words) throws IOException {
    ByteBuffer x = read(Path.of(words[1])), y = read(Path.of(words[2]));
    for (int i = 4; i < words.length; i++) {
      String[] stage = {"open"};
      String said = "ok\t";
      try {
        tryOne(new File(words[i]), x, y, new File(words[3], new File(words[i]).getName()).getPath(), stage);
      } catch (DeviceException error) {
        said = error.getProblem().getLabel() + "\t" + error.getMessage();
      } catch (Throwable error) {
        said = "CRASH\t" + error + " at " + error.getStackTrace()[0];
      }
      System.out.println(stage[0] + "\t" + said);
    }
  }

  private static void tryOne(File folder, ByteBuffer x, ByteBuffer y, String out, String[] stage) {
    try (DevicePackage device = DevicePackage.open(folder)) {
      Samples data = new Samples(Map.of(device.getDescription().getInputs().get(0).getName(), x), y);
      stage[0] = "score";
      Choice choice = device.choose(device.score(data), null, 4);
      stage[0] = "fit";
      FitOptions options = new FitOptions();
      options.setEntry(choice.getEntry().getName());
      options.setBatchSize(4);
      options.setEpochs(1);
      options.setHeldOut(data);
      options.setProgress(new File(out + ".progress"));
      PersonalModel model = device.fit(data, options);
      stage[0] = "predict";
      model.predict(data);
      stage[0] = "save";
      model.saveDelta(new File(out + ".delta"));
      model.saveSelected(new File(out + ".selected"));
    }
  }
}
